"""Reads TensorBoard's event files back."""

import struct


def events(folder):
    """All events in the files of a folder, in order: TFRecord is a length, its checksum, data, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def scalars(folder):
    """(name, step) -> value, of the event files in a folder."""
    return {
        (v.tag, e.step): v.simple_value for e in events(folder) for v in e.summary.value if not v.image.width
    }


def pictures(folder):
    """(name, step) -> (width, height) of the images in event files."""
    return {
        (v.tag, e.step): (v.image.width, v.image.height)
        for e in events(folder)
        for v in e.summary.value
        if v.image.width
    }
