//! What the name of a file says: whether it is a model's, and its name without the extension.

use std::path::Path;

/// The file's name; what is not UTF-8 in it is replaced.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name without `.gguf`, in any case. `None` where the extension is another, or is the whole name.
pub(crate) fn without_extension(file_name: &str) -> Option<&str> {
    let (stem, extension) = file_name.rsplit_once('.')?;
    (!stem.is_empty() && extension.eq_ignore_ascii_case("gguf")).then_some(stem)
}

/// Whether a file of that name can be a model. Its header says whether it is one.
pub(crate) fn is_model_name(file_name: &str) -> bool {
    without_extension(file_name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_has_a_stem_and_the_extension() {
        assert_eq!(without_extension("x.y.GGUF"), Some("x.y"));
        assert_eq!(without_extension(".gguf"), None);
        assert!(is_model_name("m.gguf") && !is_model_name("m.txt"));
    }
}
