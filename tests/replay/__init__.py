"""Tests of replays: the timeline, the player, the process, the command."""
