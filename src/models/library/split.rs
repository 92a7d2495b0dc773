//! Split models: several GGUF files, `NAME-00001-of-00003.gguf` and so on, that are one model.
//!
//! The naming is llama.cpp's (`llama_split_path`): five digits, counted from one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The name of one file of a split model, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// What all parts' names begin with.
    pub(crate) prefix: &'a str,
    /// Which part, from 1.
    pub(crate) number: u32,
    /// How many parts there are.
    pub(crate) of: u32,
}

impl<'a> Part<'a> {
    /// Takes a file's name apart. `None` where it is a whole model's.
    pub(crate) fn parse(file_name: &'a str) -> Option<Self> {
        let (rest, of) = without_extension(file_name)?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let count = |digits: &str| {
            let sound = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            if sound { digits.parse().ok() } else { None }
        };
        let (number, of) = (count(number)?, count(of)?);
        (!prefix.is_empty() && (1..=of).contains(&number)).then_some(Self { prefix, number, of })
    }

    /// The file name of another part of the same model.
    pub(crate) fn sibling(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.of)
    }
}

/// The files that make up one model with the one at `path`, where it is split.
pub(crate) fn other_parts(path: &Path) -> Vec<PathBuf> {
    let name = name_of(path);
    let Some(part) = Part::parse(&name) else { return Vec::new() };
    (1..=part.of)
        .filter(|number| *number != part.number)
        .map(|number| path.with_file_name(part.sibling(number)))
        .collect()
}

/// The files of one model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Those that are there, in order. Never empty.
    pub(crate) files: Vec<PathBuf>,
    /// The name of the first that is missing, and how many are.
    pub(crate) missing: Option<(String, u32)>,
}

/// Puts the parts of split models together. Keeps the order of `paths`, by each model's first file.
pub(crate) fn group(mut paths: Vec<PathBuf>) -> Vec<Group> {
    paths.sort_unstable();
    let mut groups = Vec::new();
    let mut splits: BTreeMap<(PathBuf, String, u32), Vec<PathBuf>> = BTreeMap::new();
    for path in paths {
        match Part::parse(&name_of(&path)) {
            None => groups.push(Group { files: vec![path], missing: None }),
            Some(part) => {
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                splits.entry((folder, part.prefix.to_owned(), part.of)).or_default().push(path);
            }
        }
    }
    for ((_, prefix, of), files) in splits {
        let there: Vec<_> =
            files.iter().filter_map(|path| Some(Part::parse(&name_of(path))?.number)).collect();
        let part = Part { prefix: &prefix, number: 1, of };
        let first_missing = (1..=of).find(|number| !there.contains(number));
        let missing = first_missing.map(|number| {
            let count = of.saturating_sub(u32::try_from(there.len()).unwrap_or(of));
            (part.sibling(number), count)
        });
        groups.push(Group { files, missing });
    }
    // Byte by byte: to compare paths by their components takes many times as long.
    groups.sort_unstable_by(|a, b| a.files[0].as_os_str().cmp(b.files[0].as_os_str()));
    groups
}

/// The file's name; what is not UTF-8 in it is replaced.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What a model's file is called without `.gguf` and, for a split model, without the part's number.
pub(crate) fn stem(file_name: &str) -> &str {
    match Part::parse(file_name) {
        Some(part) => part.prefix,
        None => without_extension(file_name).unwrap_or(file_name),
    }
}

/// The name without `.gguf`, in whatever case that is written. `None` where that is not its
/// extension, or is all there is.
pub(crate) fn without_extension(file_name: &str) -> Option<&str> {
    let (stem, extension) = file_name.rsplit_once('.')?;
    (!stem.is_empty() && extension.eq_ignore_ascii_case("gguf")).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let part = Part::parse("big-Q4_K_M-00002-of-00003.gguf").unwrap();
        assert_eq!(part, Part { prefix: "big-Q4_K_M", number: 2, of: 3 });
        assert_eq!(part.sibling(1), "big-Q4_K_M-00001-of-00003.gguf");
        for whole in ["x.gguf", "x-00004-of-00003.gguf", "x-0001-of-0003.gguf", "-00001-of-00001.gguf"] {
            assert_eq!(Part::parse(whole), None, "{whole}");
        }
        assert_eq!(stem("x-00001-of-00002.gguf"), "x");
        assert_eq!(stem("x.y.GGUF"), "x.y");
        assert_eq!(without_extension(".gguf"), None);
    }

    #[test]
    fn parts_of_one_folder_are_one_model_and_a_missing_one_is_named() {
        let paths =
            ["/a/x-00003-of-00003.gguf", "/a/x-00001-of-00003.gguf", "/b/x-00001-of-00001.gguf", "/a/y.gguf"];
        let groups = group(paths.iter().map(PathBuf::from).collect());
        assert_eq!(groups.len(), 3);
        assert_eq!(groups[0].files, [PathBuf::from(paths[1]), PathBuf::from(paths[0])]);
        assert_eq!(groups[0].missing, Some(("x-00002-of-00003.gguf".to_owned(), 1)));
        assert_eq!(groups[1].missing, None);
        assert_eq!(groups[2].missing, None);
    }
}
