//! Split models: several GGUF files, `NAME-00001-of-00003.gguf` and so on, that are one model.
//!
//! The naming is llama.cpp's (`llama_split_path`): five digits, counted from one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::models::library::file_name::{name_of, without_extension};

/// The parsed file name of one part of a split model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitPart<'a> {
    /// What the names of all parts begin with.
    pub(crate) prefix: &'a str,
    /// The number of this part, from 1.
    pub(crate) number: u32,
    /// The number of parts.
    pub(crate) count: u32,
}

impl<'a> SplitPart<'a> {
    /// Parses a file name. `None` where it is not the name of a part.
    pub(crate) fn parse(file_name: &'a str) -> Option<Self> {
        let (rest, count) = without_extension(file_name)?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let parsed = |digits: &str| {
            let is_number = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { digits.parse().ok() } else { None }
        };
        let (number, count) = (parsed(number)?, parsed(count)?);
        (!prefix.is_empty() && (1..=count).contains(&number)).then_some(Self { prefix, number, count })
    }

    /// The file name of another part of the same model.
    pub(crate) fn sibling(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// The paths of the other parts of the model that the file at `path` is a part of. Empty where the
/// model is not split.
pub(crate) fn other_parts(path: &Path) -> Vec<PathBuf> {
    let name = name_of(path);
    let Some(part) = SplitPart::parse(&name) else { return Vec::new() };
    (1..=part.count)
        .filter(|number| *number != part.number)
        .map(|number| path.with_file_name(part.sibling(number)))
        .collect()
}

/// The files of one model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ModelFiles {
    /// Those that exist, in order. Never empty.
    pub(crate) paths: Vec<PathBuf>,
    /// The name of the first part that is missing, and how many are.
    pub(crate) missing: Option<(String, u32)>,
}

/// Groups files by model: the parts of a split model are one. Sorted by each model's first path.
pub(crate) fn group_by_model(mut paths: Vec<PathBuf>) -> Vec<ModelFiles> {
    paths.sort_unstable();
    let mut models = Vec::new();
    let mut splits: BTreeMap<(PathBuf, String, u32), Vec<PathBuf>> = BTreeMap::new();
    for path in paths {
        match SplitPart::parse(&name_of(&path)) {
            None => models.push(ModelFiles { paths: vec![path], missing: None }),
            Some(part) => {
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                splits.entry((folder, part.prefix.to_owned(), part.count)).or_default().push(path);
            }
        }
    }
    for ((_, prefix, count), paths) in splits {
        let existing: Vec<_> =
            paths.iter().filter_map(|path| Some(SplitPart::parse(&name_of(path))?.number)).collect();
        let part = SplitPart { prefix: &prefix, number: 1, count };
        let first_missing = (1..=count).find(|number| !existing.contains(number));
        let missing = first_missing.map(|number| {
            let missing = count.saturating_sub(u32::try_from(existing.len()).unwrap_or(count));
            (part.sibling(number), missing)
        });
        models.push(ModelFiles { paths, missing });
    }
    // Byte by byte: comparing paths by their components takes many times as long.
    models.sort_unstable_by(|a, b| a.paths[0].as_os_str().cmp(b.paths[0].as_os_str()));
    models
}

/// The name of a model's file without `.gguf` and, for a split model, without the number of the part.
pub(crate) fn stem(file_name: &str) -> &str {
    match SplitPart::parse(file_name) {
        Some(part) => part.prefix,
        None => without_extension(file_name).unwrap_or(file_name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_parsed() {
        let part = SplitPart::parse("big-Q4_K_M-00002-of-00003.gguf").unwrap();
        assert_eq!(part, SplitPart { prefix: "big-Q4_K_M", number: 2, count: 3 });
        assert_eq!(part.sibling(1), "big-Q4_K_M-00001-of-00003.gguf");
        for whole in ["x.gguf", "x-00004-of-00003.gguf", "x-0001-of-0003.gguf", "-00001-of-00001.gguf"] {
            assert_eq!(SplitPart::parse(whole), None, "{whole}");
        }
        assert_eq!(stem("x-00001-of-00002.gguf"), "x");
        assert_eq!(stem("x.y.GGUF"), "x.y");
    }

    #[test]
    fn the_parts_in_one_folder_are_one_model_and_a_missing_part_is_named() {
        let paths =
            ["/a/x-00003-of-00003.gguf", "/a/x-00001-of-00003.gguf", "/b/x-00001-of-00001.gguf", "/a/y.gguf"];
        let models = group_by_model(paths.iter().map(PathBuf::from).collect());
        assert_eq!(models.len(), 3);
        assert_eq!(models[0].paths, [PathBuf::from(paths[1]), PathBuf::from(paths[0])]);
        assert_eq!(models[0].missing, Some(("x-00002-of-00003.gguf".to_owned(), 1)));
        assert_eq!(models[1].missing, None);
        assert_eq!(models[2].missing, None);
    }
}
