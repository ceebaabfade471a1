"""Bytes that kernels move, counted in programs that were written by hand: the sums are beside them."""

from textwrap import dedent

import pytest

from resnet_jax.cost.hlo import bits_of, read_program, read_shapes
from resnet_jax.cost.traffic import bytes_by_kind, read_kernels

# The shapes are of XLA for TPUs: tiles of 8 x 128, and S(1) for what lies on the chip.
TPU = """
    HloModule jit_step, is_scheduled=true

    %add (a: f32[], b: f32[]) -> f32[] {
      %a = f32[] parameter(0)
      %b = f32[] parameter(1)
      ROOT %sum = f32[] add(%a, %b)
    }

    %fused_convolution (p0: bf16[8,16], p1: bf16[16,128]) -> (f32[128], bf16[8,128]) {
      %p0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
      %p1 = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(1)
      %conv = bf16[8,128]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), dim_labels=bf_io->bf
      %zero = bf16[] constant(0)
      %total = f32[128]{0:T(128)} reduce(%conv, %zero), dimensions={0}, to_apply=%add
      ROOT %both = (f32[128]{0:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%total, %conv)
    }

    ENTRY %main (x: bf16[8,16], w: bf16[16,128]) -> bf16[8,128] {
      %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
      %w = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(1)
      %copy-start.1 = (bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, u32[]) copy-start(%w)
      %copy-done.1 = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start.1)
      %fusion.1 = (f32[128]{0:T(128)S(1)}, bf16[8,128]{1,0:T(8,128)(2,1)}) fusion(%x, %copy-done.1), kind=kOutput, \
calls=%fused_convolution, metadata={op_name="jit(step)/conv1/conv_general_dilated" stack_frame_id=1}
      %slice-start.1 = ((bf16[8,16]{1,0:T(8,128)(2,1)}), bf16[4,16]{1,0:T(8,128)(2,1)S(1)}, s32[]) async-start(%x), \
calls=%async
      ROOT %out = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%fusion.1), index=1
    }
"""

# A loop of five trips that writes a row into a large array, and a call as of a GPU's command buffers.
GPU = """
    HloModule jit_step, is_scheduled=true

    %fused_update (p0: f32[100,8], p1: f32[1,8], p2: s32[]) -> f32[100,8] {
      %p0 = f32[100,8]{1,0} parameter(0)
      %p1 = f32[1,8]{1,0} parameter(1)
      %p2 = s32[] parameter(2)
      %zero = s32[] constant(0)
      ROOT %update = f32[100,8]{1,0} dynamic-update-slice(%p0, %p1, %p2, %zero)
    }

    %fused_row (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
      %p0 = f32[100,8]{1,0} parameter(0)
      %p1 = s32[] parameter(1)
      %zero = s32[] constant(0)
      %row = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,8}
      ROOT %double = f32[1,8]{1,0} add(%row, %row), metadata={op_name="jit(step)/double"}
    }

    %body (state: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
      %state = (s32[], f32[100,8]{1,0}) parameter(0)
      %i = s32[] get-tuple-element(%state), index=0
      %all = f32[100,8]{1,0} get-tuple-element(%state), index=1
      %row = f32[1,8]{1,0} fusion(%all, %i), kind=kLoop, calls=%fused_row
      %new = f32[100,8]{1,0} fusion(%all, %row, %i), kind=kLoop, calls=%fused_update
      ROOT %both = (s32[], f32[100,8]{1,0}) tuple(%i, %new)
    }

    %condition (state: (s32[], f32[100,8])) -> pred[] {
      %state = (s32[], f32[100,8]{1,0}) parameter(0)
      ROOT %more = pred[] constant(true)
    }

    %command_buffer (p0: f32[100,8]) -> f32[100,8] {
      %p0 = f32[100,8]{1,0} parameter(0)
      ROOT %conv = f32[100,8]{1,0:S(1)} custom-call(%p0, %p0), custom_call_target="__cudnn$convForward"
    }

    ENTRY %main (x: (s32[], f32[100,8])) -> f32[100,8] {
      %x = (s32[], f32[100,8]{1,0}) parameter(0)
      %loop = (s32[], f32[100,8]{1,0}) while(%x), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
      %all = f32[100,8]{1,0} get-tuple-element(%loop), index=1
      ROOT %done = f32[100,8]{1,0} call(%all), to_apply=%command_buffer
    }
"""


def kernels(text, *, on_chip):
    return {kernel.name: kernel for kernel in read_kernels(dedent(text), on_chip=on_chip)}


def test_a_tpus_program():
    found = kernels(TPU, on_chip=True)
    assert set(found) == {"copy-start.1", "fusion.1", "slice-start.1"}, "nothing else moves anything"
    copy, fusion, part = (found[name] for name in ("copy-start.1", "fusion.1", "slice-start.1"))
    assert (copy.read, copy.written) == (16 * 128 * 2, 0), "the result names the destination first, as XLA does"
    assert fusion.read == 8 * 128 * 2, "x, whose 16 columns are padded to 128; the kernel lies on the chip"
    assert fusion.written == 8 * 128 * 2, "the sums stay on the chip"
    assert fusion.kind == "convolution + reduce"
    assert fusion.source == "jit(step)/conv1/conv_general_dilated"
    assert (part.read, part.written) == (8 * 128 * 2, 0), "four rows are padded to eight"


def test_the_same_text_without_memory_on_the_chip():
    fusion = kernels(TPU, on_chip=False)["fusion.1"]
    assert fusion.read == (8 * 128 + 16 * 128) * 2
    assert fusion.written == 8 * 128 * 2 + 128 * 4


def test_loops_calls_and_parts_of_arrays():
    found = kernels(GPU, on_chip=False)
    row, new, conv = (found[name] for name in ("row", "new", "conv"))
    assert row.times == new.times == 5
    assert conv.times == 1
    assert (row.read, row.written) == (32 + 4, 32), "one row of a hundred, and its number"
    assert row.source == "jit(step)/double", "where the fusion itself names none"
    assert (new.read, new.written) == (32 + 4, 32), "the array changes in place"
    assert (conv.read, conv.written) == (3200, 3200), "an operand that is named twice is read once"
    assert bytes_by_kind(found.values()) == {"__cudnn$convForward": (1, 6400), "elementwise": (2, 5 * (68 + 68))}


@pytest.mark.parametrize(
    ("condition", "trips"),
    [
        ("compare(%i, %bound), direction=LT", 7),
        ("compare(%i, %bound), direction=NE", 1),  # the text does not tell
        ("compare(%bound, %i), direction=LT", 1),
    ],
)
def test_trips_of_a_tpus_loop(condition, trips):
    text = f"""
        %body (state: (s32[])) -> (s32[]) {{
          ROOT %state = (s32[]) parameter(0)
        }}

        %condition (state: (s32[])) -> pred[] {{
          %state = (s32[]) parameter(0)
          %i = s32[] get-tuple-element(%state), index=0
          %bound = s32[] constant(7)
          ROOT %more = pred[] {condition}
        }}

        ENTRY %main (x: (s32[])) -> (s32[]) {{
          %x = (s32[]) parameter(0)
          ROOT %loop = (s32[]) while(%x), condition=%condition, body=%body
        }}
    """
    program = read_program(dedent(text))
    assert program.trip_count(program.computations["main"][-1]) == trips


@pytest.mark.parametrize(
    ("text", "size", "logical"),
    [
        ("f32[]", 4, 4),
        ("pred[3]{0}", 3, 3),
        ("bf16[128,112,113,64]{0,3,2,1:T(8,128)(2,1)S(1)}", 2 * 128 * 112 * 113 * 64, 2 * 128 * 112 * 113 * 64),
        ("f32[7,7,3,64]{3,2,1,0:T(4,128)}", 4 * 7 * 7 * 4 * 128, 4 * 7 * 7 * 3 * 64),
        ("s4[2,9]{1,0}", 9, 9),
        ("f8e4m3fn[16]{0}", 16, 16),
        ("token[]", 0, 0),
    ],
)
def test_bytes_of_an_array(text, size, logical):
    (shape,) = read_shapes(text)
    assert (shape.bytes, shape.logical_bytes) == (size, logical)


def test_spaces_of_memory():
    assert [shape.space for shape in read_shapes("(f32[8]{0:T(8)S(1)}, u32[]{:S(2)}, f32[8]{0})")] == [1, 2, 0]
    assert bits_of("bf16") == 16


def test_something_else_than_a_program():
    with pytest.raises(ValueError, match="no line begins with ENTRY: this is not the text of an HLO module"):
        read_program("HloModule empty\n")
