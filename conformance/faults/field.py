"""The faults that were seen in public, and where each of them is planted.

The names on the left are those of a survey of bug reports in MXFP4, gpt-oss and fused
MoE stacks; each fault on the right links a report of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_CODEC = {
    "nibble_swap": ("nibble_swap", "nibbles_swapped", "nibbles_swapped_in_kernel"),
    "scale_bias_off": (
        "scale_bias_off",
        "scale_bias_off_low",
        "scales_one_high",
        "every_scale_one_high",
        "output_four_times",
    ),
    "scale_nan_wrong_code": ("scale_nan_wrong_code",),
    "scale_subnormal_flush": ("scale_subnormal_flush", "decode_through_float16"),
    "quant_scale_floor_of_ratio": ("quant_scale_floor_of_ratio",),
    "quant_scale_mode_swap": ("quant_scale_mode_swap", "quant_scale_ceil_for_floor"),
    "quant_double_round": ("quant_double_round",),
    "quant_floor_mismatch": ("scale_byte_zero_off_by_two",),
    "e2m1_ties_away": ("e2m1_ties_away",),
    "log2_trunc": ("quant_log2_trunc", "quant_float32_log2"),
    "scale_not_pow2_packed": ("scale_not_pow2_packed",),
    "scale_value_cast": ("scale_value_cast",),
    "nan_scale_byte_injected": ("nan_scale_byte_injected",),
    "fp4_pair_read_as_fp8": ("fp4_pair_read_as_fp8",),
}

_LAYOUT = {
    "keep_interleaved": ("keep_interleaved", "pad_2i_and_keep_interleaved"),
    "swap_gate_up": ("swapped_gate_up", "gates_above_ups"),
    "skip_row_shuffle_w1": ("fc1_weights_not_shuffled",),
    "skip_row_shuffle_w2": ("fc2_weights_not_shuffled",),
    "skip_row_shuffle_scales": ("skip_row_shuffle_scales", "scales_not_shuffled"),
    "skip_scale_interleave_fc1": (
        "skip_scale_interleave_fc1",
        "skip_scale_interleave",
    ),
    "skip_scale_interleave_fc2": ("skip_scale_interleave_fc2",),
    "wrong_scale_interleave": ("scale_tiles_by_column",),
    "wrong_epilogue_tile": ("epilogue_tile_64",),
    "permute_cache_key_shape_only": (
        "cache_keyed_by_shape_only",
        "permute_cache_of_another_shape",
    ),
    "permute_cache_stale": ("permute_cache_stale",),
    "gate_mode_flag_mismatch": ("gate_mode_flag_mismatch",),
    "preshuffled_to_plain_consumer": (
        "preshuffled_to_plain_consumer",
        "output_columns_shuffled",
    ),
    "transpose_square_down": ("transpose_square_down",),
    "mask_2i_not_i": ("mask_2i_not_i",),
}

_PADDING = {
    "pad_fused_2i": ("padded_after_stacking", "pad_2i_and_keep_interleaved"),
    "pad_garbage_weights": ("pad_garbage_weights", "weight_padding_not_zero"),
    "pad_garbage_scales": ("scale_padding_of_nan", "padding_of_ones"),
    "pad_garbage_bias": ("gate_bias_padding_not_zero", "up_bias_padding_not_zero"),
    "k_tail_unmasked": ("k_tail_unmasked", "last_k_block_dropped"),
    "grid_floor": ("grid_floor",),
    "view_noncontiguous": ("packed_rows_assumed", "fused_packed_rows_assumed"),
    "reload_overwrites": ("reload_overwrites", "weights_drift", "prepared_modified"),
}

_BIAS_AND_ACTIVATION = {
    "bias_not_shuffled_fc1": ("bias_not_shuffled_fc1", "biases_not_shuffled"),
    "bias_not_shuffled_fc2": ("bias_not_shuffled_fc2", "fc2_bias_not_shuffled"),
    "drop_bias_fc1": ("drop_bias_fc1", "drop_both_biases", "biases_of_zeros"),
    "drop_bias_fc2": ("drop_bias_fc2",),
    "fc2_bias_not_divided": ("fc2_bias_not_divided", "down_bias_not_divided"),
    "pad_row_bias_summed": ("pad_row_bias_summed",),
    "drop_limit": ("drop_limit",),
    "plain_silu_mul": ("plain_silu_mul",),
    "drop_plus_one": ("drop_plus_one",),
    "gate_clamp_symmetric": ("gate_clamp_symmetric",),
    "up_clamp_upper_only": ("up_clamp_upper_only",),
    "act_params_stale": ("act_params_stale",),
}

_ROUTING = {
    "softmax_all_no_renorm": ("softmax_all_no_renorm", "fused_softmax_over_all"),
    "softmax_bf16": ("softmax_bf16", "softmax_in_the_dtype_of_the_logits"),
    "topk_on_bf16": ("topk_on_bf16",),
    # Never renormalised; always renormalised is the one routing that is not reserved.
    "renorm_flag_ignored": ("softmax_all_no_renorm",),
    "logits_dtype_reinterpret": ("logits_dtype_reinterpret",),
    "topk_init_zero": ("topk_init_zero", "padded_experts"),
    "nan_row_duplicates": ("nan_row_duplicates",),
    "nan_row_sentinel": ("nan_row_sentinel",),
    "packed_stride_assumed": (
        "packed_stride_assumed",
        "packed_stride_assumed_for_weights",
        "packed_routing_assumed",
    ),
}

_SHARDS_AND_STATE = {
    "slice_before_align": ("slice_before_align", "sharded_before_padding"),
    "valid_i_unclamped": ("valid_i_unclamped",),
    "scale_slice_stride": ("scale_slice_stride",),
    "ep_global_ids_local_weights": ("ep_global_ids_local_weights",),
    "ep_mask_is_zero": ("ep_mask_is_zero",),
    "unowned_rows_uninit": ("unowned_rows_uninit",),
    # At 2**16 and 2**18: at 2**31 a tensor has more than 4 GiB.
    "int32_token_offset": ("token_offset_wraps",),
    "int32_expert_offset": ("expert_offset_wraps",),
    "zero_tokens": ("zero_tokens_raise", "zero_tokens_give_one_row"),
    "first_token_only": ("first_token_only",),
    "m_bucket_wrong": ("m_bucket_wrong", "one_token_wrong", "one_tactic_wrong"),
    "tactic_args_swapped": ("tactic_args_swapped",),
    "stale_on_second_call": (
        "stale_on_second_call",
        "stale_hidden_of_this_size",
        "stale_routing",
    ),
}

PLANTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    _CODEC | _LAYOUT | _PADDING | _BIAS_AND_ACTIVATION | _ROUTING | _SHARDS_AND_STATE
)
"""Name in the survey -> names in `catalogue.FAULTS`, the closest first."""

APART: Mapping[str, str] = MappingProxyType(
    {
        "scale_byte_shift": "public decoders differ at biased exponents 0x00 and 0xFD "
        "to 0xFF: a quality note, and a correct variant (`correct.shifted_bits`)",
        "tie_order_reversed": "which of equal logits wins is a policy: a quality note, "
        "and a correct variant (`correct.topk_route`)",
        "softmax_all_renormalised": "equals top-k before softmax in exact arithmetic: "
        "a correct variant (`correct.renormalised_route`)",
        "scaling_factor_dropped": "`route` is given no factor, and `forward` gets "
        "weights that hold it: nothing of a candidate can drop it",
        "scale_chunk_by_block": "scales of activations: classes W4A8 are reserved",
        "act_scale_not_swizzled": "scales of activations: classes W4A8 are reserved",
    }
)
"""What is not planted, and why: no check could honestly fail it."""

NEAR_EQUIVALENT: Mapping[str, str] = MappingProxyType(
    {
        "gate_clamp_symmetric": "changes the gate factor by 4.7e-5 at most: planted "
        "in class fp32, out of sight in a class with bfloat16",
        "alpha_in_bfloat16": "alpha 1.703125 for 1.702: planted in class fp32",
        "routing_weights_in_bfloat16": "2**-9 of a slot: planted in class fp32",
        "scale_tiles_by_column": "the same bytes as specified for K <= 128: planted "
        "at the real width",
    }
)
"""Faults of `PLANTED` that most data or classes hide; planted where they show."""
