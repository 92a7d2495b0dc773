//! The quantization that a model's file name states.

use crate::models::library::split;

/// The part of a file's path that says how its weights are quantised, in upper case: `Q4_K_M`,
/// `UD-IQ2_XXS`.
pub(crate) fn quantization_tag(path: &str) -> Option<String> {
    let stem = split::stem(path).to_ascii_uppercase();
    let words: Vec<_> = stem.split(['-', '.', '/']).collect();
    let at = words.iter().rposition(|word| is_quantization(word))?;
    let is_dynamic = at > 0 && words[at - 1] == "UD";
    Some(if is_dynamic { format!("UD-{}", words[at]) } else { words[at].to_owned() })
}

/// Whether a word, in upper case, names a quantization.
pub(crate) fn is_quantization(word: &str) -> bool {
    if matches!(word, "F32" | "F16" | "BF16" | "FP16" | "FP32" | "MXFP4" | "NVFP4" | "MXFP4_MOE") {
        return true;
    }
    let digits = ["IQ", "TQ", "Q"].iter().find_map(|prefix| word.strip_prefix(prefix)).unwrap_or_default();
    let mut characters = digits.chars();
    characters.next().is_some_and(|c| c.is_ascii_digit())
        && characters.next() == Some('_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_file_name_is_its_quantization() {
        for (name, tag) in [
            ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", Some("Q4_K_M")),
            ("qwen2.5-0.5b.q8_0.gguf", Some("Q8_0")),
            ("m-UD-IQ2_XXS-00001-of-00002.gguf", Some("UD-IQ2_XXS")),
            ("m-f16.gguf", Some("F16")),
            ("Qwen-Q.gguf", None),
            ("model.gguf", None),
        ] {
            assert_eq!(quantization_tag(name).as_deref(), tag, "{name}");
        }
    }
}
