//! What the end of an engine's log means, for the causes that come up again and again.
//!
//! Engines say why they ended in their own words; what to do about it they rarely say. The words
//! here are those of llama.cpp, vLLM, CUDA's runtime and the dynamic linker.

/// Words of a log, in lower case, and the next step where they come up.
const CAUSES: &[(&[&str], &str)] = &[
    (
        &[
            "out of memory",
            "cudamalloc failed",
            "failed to allocate",
            "unable to allocate",
            "cannot allocate memory",
            "bad_alloc",
            "no available memory for the cache blocks",
        ],
        "memory ran out: try a shorter context_length, fewer slots, a smaller quantization or another device, or \
         unload another model",
    ),
    (
        &["unknown model architecture", "are not supported for now", "unknown pre-tokenizer"],
        "this version of the engine does not know the model's architecture: update the engine, or take another model",
    ),
    (
        &[
            "invalid magic",
            "failed to read magic",
            "corrupted or incomplete",
            "not within the file bounds",
            "failed to read key-value pairs",
            "failed to read tensor",
            "wrong number of tensors",
            "missing tensor",
            "check_tensor_dims",
            "unexpectedly reached end of file",
        ],
        "the engine found the file damaged: ModelGet says what the hive knows of it; fetch it again with ModelDownload \
         and \"force\": true",
    ),
    (
        &["failed to load multimodal model", "failed to load clip model"],
        "the multimodal projector does not fit the model: look at [llama_server] mmproj",
    ),
    (
        &["error while loading shared libraries", "symbol lookup error", "library not loaded"],
        "a library that the engine needs is missing or of another version: reinstall the engine, or say where its \
         libraries are (LD_LIBRARY_PATH)",
    ),
    (
        &["invalid argument:", "unrecognized arguments", "unknown argument", "unknown value for --"],
        "this version of the engine does not know an option that it was given: update it, or take the option out of \
         the settings",
    ),
    (
        &[
            "no kernel image is available",
            "cuda driver version is insufficient",
            "no cuda gpus are available",
            "no cuda-capable device",
        ],
        "the engine and the GPU's driver do not fit each other: update the driver, or take an engine that is built for \
         this GPU",
    ),
    (&["no space left on device"], "a disk is full: the log names it, or look at df"),
    (
        &["permission denied"],
        "the engine may not use a file or a device that its log names: check its rights",
    ),
    (
        &["no such file or directory", "no module named"],
        "something that the engine needs is not there: its log names it",
    ),
];

/// The next step for what the last lines of a log say, where that is known. What was said last
/// counts.
pub(super) fn hint(tail: &[String]) -> Option<&'static str> {
    tail.iter().rev().find_map(|line| {
        let line = line.to_lowercase();
        let known = CAUSES.iter().find(|(words, _)| words.iter().any(|words| line.contains(words)));
        known.map(|(_, hint)| *hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_engines_are_understood() {
        for (line, step) in [
            (
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB: cudaMalloc failed: out of memory",
                "memory",
            ),
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB", "memory"),
            ("terminate called after throwing an instance of 'std::bad_alloc'", "memory"),
            ("error loading model architecture: unknown model architecture: 'mamba9'", "update the engine"),
            ("gguf_init_from_file_impl: invalid magic characters: 'RIFF', expected 'GGUF'", "fetch it again"),
            (
                "tensor 'a' data is not within the file bounds, model is corrupted or incomplete",
                "fetch it again",
            ),
            (
                "error loading model: check_tensor_dims: tensor 'blk.0.attn_q.weight' not found",
                "fetch it again",
            ),
            ("srv load_model: failed to load multimodal model, 'm.gguf'", "mmproj"),
            ("x: error while loading shared libraries: libcudart.so.12: cannot open", "reinstall"),
            ("error: invalid argument: --flash-attn", "take the option out"),
            ("api_server.py: error: unrecognized arguments: --x", "take the option out"),
            ("CUDA error: no kernel image is available for execution on the device", "driver"),
            ("bind: Permission denied", "rights"),
        ] {
            let hint = hint(&["ready to go".to_owned(), line.to_owned()]).unwrap_or_else(|| panic!("{line}"));
            assert!(hint.contains(step), "{line}: {hint}");
        }
        assert_eq!(hint(&["all is well".to_owned()]), None);
        let both = ["Permission denied".to_owned(), "out of memory".to_owned()];
        assert!(hint(&both).unwrap().starts_with("memory"), "what was said last counts");
    }
}
