//! The kernels' sources and names. Each file is compiled by itself, behind what all share (`common.cuh`).

/// A file of CUDA C.
#[derive(Debug, Clone)]
pub struct KernelFile {
    /// Its name, for the compiler's messages.
    pub name: &'static str,
    /// All of its text, with what all files share before it.
    pub source: String,
    /// The kernels that it defines, with their parameters left out.
    pub kernels: &'static [&'static str],
}

const COMMON: &str = include_str!("kernels/common.cuh");

macro_rules! kernel_files {
    ($($file:literal: [$($kernel:literal),* $(,)?]),* $(,)?) => {
        /// Every file, in the order in which they are compiled.
        pub fn every_file() -> Vec<KernelFile> {
            vec![$(KernelFile {
                name: $file,
                source: format!(
                    "#line 1 \"common.cuh\"\n{COMMON}\n{}#line 1 \"{}\"\n{}",
                    shared($file),
                    $file,
                    include_str!(concat!("kernels/", $file))
                ),
                kernels: &[$($kernel),*],
            }),*]
        }
    };
}

/// What some files share beyond what all do.
fn shared(file: &str) -> String {
    macro_rules! texts {
        ($($name:literal),*) => {
            [$(concat!("#line 1 \"", $name, "\"\n", include_str!(concat!("kernels/", $name)), "\n")),*].concat()
        };
    }
    match file {
        "attention.cu" => texts!("attention.cuh", "attention_plain.cuh"),
        "attention_tensor.cu" => texts!("attention.cuh", "tensor.cuh", "attention_tensor.cuh"),
        "cached_attention.cu" => texts!("attention.cuh", "cached.cuh", "attention_plain.cuh", "eights.cuh"),
        "cached_attention_tensor.cu" => {
            texts!("attention.cuh", "cached.cuh", "tensor.cuh", "attention_tensor.cuh")
        }
        "product.cu" => texts!("tensor.cuh"),
        "quantised.cu" => texts!("eights.cuh"),
        _ => String::new(),
    }
}

kernel_files! {
    "elementwise.cu": [
        "round_to_bf16", "widen_to_f32", "add_assign", "scale", "soft_cap", "repeat_row_f32",
        "repeat_row_bf16",
    ],
    "rows.cu": ["gather_rows_f32", "gather_rows_bf16", "add_gathered_rows", "add_row_groups"],
    "norm.cu": [
        "rms_norm_f32", "rms_norm_bf16", "rms_norm_backward", "rms_norm_weight", "layer_norm_f32", "layer_norm_bf16",
        "layer_norm_backward", "layer_norm_weight", "column_sums_f32", "column_sums_bf16", "add_partials",
    ],
    "rotary.cu": ["rotary_f32", "rotary_bf16"],
    "activation.cu": [
        "swiglu_f32", "swiglu_bf16", "swiglu_backward_f32", "swiglu_backward_bf16", "gelu_f32", "gelu_bf16",
        "gelu_backward_f32", "gelu_backward_bf16",
    ],
    "dropout.cu": ["dropout_f32_f32", "dropout_f32_bf16", "dropout_bf16_f32", "dropout_bf16_bf16"],
    "adapter.cu": [
        "length_factors", "scale_columns_f32", "scale_columns_bf16", "add_scaled_columns", "column_dots",
        "add_length_gradient", "row_norms_f32", "row_norms_bf16",
    ],
    "optimiser.cu": ["adamw", "rmsprop", "sgd"],
    "reduce.cu": ["sum_of_squares", "add_sums"],
    "score.cu": ["score", "score_rows", "score_head"],
    "log_prob.cu": [
        "log_prob_begin", "log_prob_chunk", "log_prob_end", "log_prob_gradient_f32", "log_prob_gradient_bf16",
    ],
    "product.cu": [
        "product_f32_f32_f32", "product_bf16_bf16_f32", "product_bf16_bf16_bf16", "product_f32_bf16_f32",
        "product_f32_bf16_bf16",
    ],
    "quantised.cu": [
        "widen_int8_f32", "widen_nf4_f32", "widen_nested_nf4_f32", "widen_int8_bf16", "widen_nf4_bf16",
        "widen_nested_nf4_bf16",
        "widen_eights_int8_f32", "widen_eights_nf4_f32", "widen_eights_nested_nf4_f32", "widen_eights_int8_bf16",
        "widen_eights_nf4_bf16", "widen_eights_nested_nf4_bf16",
    ],
    "attention.cu": [
        "attention_f32", "attention_delta_f32", "attention_dq_f32", "attention_dkv_f32", "attention_bf16",
        "attention_delta_bf16", "attention_dq_bf16", "attention_dkv_bf16",
    ],
    "cached_attention.cu": [
        "append_rows_f32", "cached_attention_f32", "join_spans_f32", "append_rows_bf16", "cached_attention_bf16",
        "join_spans_bf16",
    ],
    "cached_attention_tensor.cu": ["cached_attention_tensor_64", "cached_attention_tensor_128"],
    "attention_tensor.cu": [
        "attention_tensor_64", "attention_tensor_dq_64", "attention_tensor_dkv_64", "attention_tensor_128",
        "attention_tensor_dq_128", "attention_tensor_dkv_128",
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_kernels_have_one_name() {
        let mut seen = BTreeSet::new();
        for file in every_file() {
            for kernel in file.kernels {
                assert!(seen.insert(*kernel), "{kernel} twice");
            }
        }
    }
}
