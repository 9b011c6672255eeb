"""Which filters, norm parameters and input channels of a network have to go together.

`trace_channels` follows every channel through the network's graph; `rules` says what one operation does to channels,
`values` how they are held, `groups` what comes out.
"""

from foldflat.model.channels.groups import ChannelGroup, ChannelMap, Layer, named_tensors
from foldflat.model.channels.tracing import (
    call_arguments,
    device_of,
    eval_mode_of,
    inference_mode_of,
    on_device_of,
    trace_channels,
)

__all__ = [
    "ChannelGroup",
    "ChannelMap",
    "Layer",
    "call_arguments",
    "device_of",
    "eval_mode_of",
    "inference_mode_of",
    "named_tensors",
    "on_device_of",
    "trace_channels",
]
