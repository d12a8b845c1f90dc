"""Imported by Django's start, before there is a layer."""

from channelserver import Channel, Group

channel, group = Channel("any-name"), Group("early")
group_of_default_layer = Group("early", alias="default")
