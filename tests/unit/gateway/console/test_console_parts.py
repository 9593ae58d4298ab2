"""What pages are made of, in NiceGUI itself without a browser: buttons, dialogues, errors, trouble."""

from __future__ import annotations

import asyncio

import pytest
from nicegui import ui
from nicegui.testing import user_simulation

from gateway.console.caller import Refusal
from gateway.console.parts import Dialogue, El, Entry, button
from gateway.console.table import Column, Paged
from gateway.console.view import View


async def page_of(user, build):
    """What *build* put on a page, as it is before its reader."""
    made = []

    @ui.page("/")
    def page():
        made.append(build())

    await user.open("/")
    return made[0]


def press(user, pressed: El) -> None:
    (listener,) = pressed._event_listeners.values()
    with user.client:
        pressed._handle_event({"listener_id": listener.id, "args": {}})


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_button_that_is_at_work_cannot_be_pressed_again():
    begun, over = [], asyncio.Event()

    async def work():
        begun.append(1)
        await over.wait()

    async with user_simulation() as user:
        made = await page_of(user, lambda: button("Count", work))
        press(user, made)
        press(user, made)
        await turn()
        assert begun == [1] and made.props["disabled"]

        over.set()
        await turn()
        assert "disabled" not in made.props
        press(user, made)
        await turn()
        assert begun == [1, 1]


@pytest.mark.parametrize("name", ["pi-1", 'a "b"', "C:\\x", "two\nlines", "it's", "a=1 b"])
async def test_a_dialogue_is_named_whatever_it_is_about(name):
    answers = []

    async def ask():
        with Dialogue(f"Take {name} out?") as box:
            yes.append(button("Take out", lambda: box.answer(name)))
        shown.append(box._dialog.props["aria-label"])
        answers.append(await box.asked())

    yes: list[El] = []
    shown: list[str] = []
    async with user_simulation() as user:
        press(user, await page_of(user, lambda: button("Ask", ask)))
        await turn()
        assert shown == [f"Take {name} out?"]
        press(user, yes[0])
        await turn()
    assert answers == [name]


async def test_an_error_stands_beside_its_input_until_it_is_mended():
    async with user_simulation() as user:
        entry = await page_of(user, lambda: Entry("Name", hint="1 to 32 characters"))
        assert entry.error is None

        with user.client:
            entry.error = "that is taken"
        assert entry.error == "that is taken" and entry.input.props["aria-invalid"] == "true"
        entry.error = None
        assert entry.error is None and "aria-invalid" not in entry.input.props


async def test_a_page_of_a_table_that_cannot_be_asked_leaves_the_one_that_is_shown():
    asked, refuse = [], []

    async def fetch(cursor):
        asked.append(cursor)
        if refuse:
            raise Refusal(503, "busy", "try again")
        page = int(cursor or 0)
        return [{"key": str(page), "name": page}], str(page + 1) if page < 2 else ""

    async with user_simulation() as user:
        table = await page_of(
            user,
            lambda: Paged(object.__new__(View), "Events", [Column("name", "Name")], fetch, every_s=0),
        )
        with user.client:
            await table.refresh()
            refuse.append(1)
            await table._go_on()
            refuse.clear()
            assert table._where.text == "page 1" and asked == ["", "1"]

            await table._go_on()
            await table._go_on()
            assert table._where.text == "page 3" and asked[2:] == ["1", "2"]
            assert table.grid._props["rows"] == [{"key": "2", "name": 2}]
            refuse.append(1)
            await table._go_back()
            refuse.clear()
            await table._go_back()
            assert table._where.text == "page 2" and asked[4:] == ["1", "1"]


async def test_a_line_of_trouble_stays_until_what_failed_goes_well():
    def build():
        view = object.__new__(View)
        view._troubles = {}
        view._trouble = El("p")
        return view

    async with user_simulation() as user:
        view = await page_of(user, build)
        view.trouble("tokens cannot be asked", of="tokens")
        view.trouble("")
        view.trouble("", of="users")
        assert view._trouble.text == "tokens cannot be asked" and view._trouble.visible

        view.trouble("the mesh cannot be asked")
        view.trouble("", of="tokens")
        assert view._trouble.text == "the mesh cannot be asked"
        view.trouble("")
        assert view._trouble.text == "" and not view._trouble.visible
