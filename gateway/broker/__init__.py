"""The broker the gateway hosts: mosquitto when found, otherwise amqtt in a process of its own."""
