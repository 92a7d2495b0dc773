//! Chooses the files of a repository that are the model that a name means.
//!
//! A repository of GGUF files holds one model in many quantizations. Where the name chooses none,
//! nothing is guessed: the failure lists them with their sizes, and marks the recommended one.

use std::path::PathBuf;

use super::name::{HubName, Pick};
use crate::error::{Choice, Code, Failure};
use crate::models::library::companions::{Role, Surroundings, are_one_model, projector_of, role_of};
use crate::models::library::file_name::is_model_name;
use crate::models::library::quantization::quantization_tag;
use crate::models::library::split::{ModelFiles, SplitPart, group_by_model, stem};
use crate::{n, text};

/// How many candidates a failure lists.
const MAX_LISTED: usize = 30;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepositoryFile {
    /// Its path in the repository.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) size: Option<u64>,
    /// The SHA-256 of its contents, in lower-case hexadecimal, where the Hub states it.
    pub(crate) sha256: Option<String>,
}

/// One model of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its files, in order.
    pub(crate) files: Vec<RepositoryFile>,
    /// The quantization that its file name states.
    pub(crate) tag: Option<String>,
}

impl Candidate {
    fn path(&self) -> &str {
        &self.files[0].path
    }

    fn size(&self) -> Option<u64> {
        self.files.iter().map(|file| file.size).sum()
    }

    /// `Q4_K_M (2.1 GB)`
    fn describe(&self, by_path: bool, is_recommended: bool) -> String {
        let name = self.tag.as_deref().filter(|_| !by_path).unwrap_or(self.path());
        let mut facts: Vec<String> = self.size().map(text::bytes).into_iter().collect();
        if self.files.len() > 1 {
            facts.push(format!("{} parts", self.files.len()));
        }
        if is_recommended {
            facts.push("recommended".to_owned());
        }
        if facts.is_empty() { name.to_owned() } else { format!("{name} ({})", facts.join(", ")) }
    }
}

/// The models among these files, without companions and models that lack a part. Draft models and adapters
/// count where there is nothing else.
pub(crate) fn candidates(files: &[RepositoryFile]) -> Vec<Candidate> {
    let of_roles = |roles: &[Role]| grouped(files, |path| roles.contains(&role_of(path)));
    let models = of_roles(&[Role::Model]);
    if models.is_empty() { of_roles(&[Role::Helper]) } else { models }
}

/// The models of the files that are wanted.
fn grouped(files: &[RepositoryFile], is_wanted: impl Fn(&str) -> bool) -> Vec<Candidate> {
    let is_model = |file: &&RepositoryFile| is_model_name(&file.path) && is_wanted(&file.path);
    let paths = files.iter().filter(is_model).map(|file| PathBuf::from(&file.path)).collect();
    let candidate = |model: ModelFiles| {
        if let Some((missing, _)) = model.missing {
            n!(warn: "hub_files", "The repository lacks {missing}: that model is left out");
            return None;
        }
        let described =
            |path: &PathBuf| files.iter().find(|file| path.as_os_str() == file.path.as_str()).cloned();
        let files: Vec<_> = model.paths.iter().filter_map(described).collect();
        let tag = quantization_tag(&files.first()?.path);
        Some(Candidate { files, tag })
    };
    group_by_model(paths).into_iter().filter_map(candidate).collect()
}

/// The projector of a model.
pub(crate) fn projector(model: &Candidate, files: &[RepositoryFile]) -> Option<RepositoryFile> {
    let models = candidates(files);
    let has_one_model = are_one_model(models.iter().map(Candidate::path));
    let projectors = files.iter().map(|file| &*file.path);
    let projectors = projectors.filter(|path| is_model_name(path) && role_of(path) == Role::Projector);
    let around = Surroundings { has_one_model, is_repository: true };
    let path = projector_of(model.path(), projectors, around)?;
    files.iter().find(|file| file.path == path).cloned()
}

/// Why no model was chosen.
#[derive(Debug)]
pub(crate) enum ChoiceError {
    /// No model fits the name. The failure has [`Code::SourceNotFound`] and lists the models.
    NoSuchModel(Failure),
    /// Several models fit the name. The failure has [`Code::ModelAmbiguous`] and lists them.
    Ambiguous(Failure),
}

impl From<ChoiceError> for Failure {
    fn from(error: ChoiceError) -> Self {
        match error {
            ChoiceError::NoSuchModel(failure) | ChoiceError::Ambiguous(failure) => failure,
        }
    }
}

/// The model that the name means.
pub(crate) fn choose(name: &HubName, files: &[RepositoryFile]) -> Result<Candidate, ChoiceError> {
    // Who names a file means that file, whatever its name says.
    let mut candidates = match &name.pick {
        Pick::File(_) => grouped(files, |_| true),
        _ => candidates(files),
    };
    let repo = &name.repo;
    if candidates.is_empty() {
        let failure = Failure::new(
            Code::SourceNotFound,
            format!("{repo} has no GGUF file that is a model ({} files in all)", files.len()),
        )
        .hint("look for a repository of the same model whose name ends in -GGUF");
        return Err(ChoiceError::NoSuchModel(failure));
    }
    let chosen: Vec<usize> = match &name.pick {
        Pick::Only => (0..candidates.len()).collect(),
        Pick::Quantization(wanted) => quantised(&candidates, wanted),
        Pick::File(path) => {
            // Any part of a split model may be named.
            let has = |candidate: &Candidate| candidate.files.iter().any(|file| file.path == *path);
            (0..candidates.len()).filter(|&index| has(&candidates[index])).collect()
        }
    };
    match (&chosen[..], &name.pick) {
        (&[index], _) => Ok(candidates.swap_remove(index)),
        ([], Pick::File(path)) => Err(ChoiceError::NoSuchModel(no_such_file(repo, path, files, &candidates))),
        ([], Pick::Quantization(wanted)) => Err(ChoiceError::NoSuchModel(listing(
            Code::SourceNotFound,
            format!("{repo} has no {} among its {} models", text::excerpt(wanted), candidates.len()),
            name,
            &candidates,
        ))),
        _ => {
            let several: Vec<_> = chosen.iter().map(|&index| candidates[index].clone()).collect();
            let message = match &name.pick {
                Pick::Quantization(wanted) => {
                    format!("{repo} has {} models that are {}", several.len(), text::excerpt(wanted))
                }
                _ => format!("{repo} has {} models, and the name chooses none", several.len()),
            };
            Err(ChoiceError::Ambiguous(listing(Code::ModelAmbiguous, message, name, &several)))
        }
    }
}

/// Whether only one model of the repository has that tag, so that the tag names it in the catalog.
pub(crate) fn is_unique(tag: &str, files: &[RepositoryFile]) -> bool {
    candidates(files).iter().filter(|candidate| candidate.tag.as_deref() == Some(tag)).count() == 1
}

/// The candidates with that tag; if there are none, those whose tag or file name ends in it, so that
/// `Q4_K_XL` finds `UD-Q4_K_XL`.
fn quantised(candidates: &[Candidate], wanted: &str) -> Vec<usize> {
    let wanted = wanted.to_ascii_uppercase();
    let matching = |fits: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        (0..candidates.len()).filter(|&index| fits(&candidates[index])).collect()
    };
    let exact = matching(&|candidate| candidate.tag.as_deref() == Some(&*wanted));
    if !exact.is_empty() {
        return exact;
    }
    let ends_in = |text: &str| {
        text.strip_suffix(&*wanted)
            .is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_', '/']))
    };
    matching(&|candidate| {
        candidate.tag.as_deref().is_some_and(ends_in) || ends_in(&stem(candidate.path()).to_ascii_uppercase())
    })
}

/// The recommended candidate: `Q4_K_M`, or the nearest to it.
fn recommended(candidates: &[Candidate]) -> usize {
    (0..candidates.len()).min_by_key(|&index| distance(candidates[index].tag.as_deref())).unwrap_or(0)
}

/// The distance of a quantization from `Q4_K_M`: by its bits per weight, where one too few counts more
/// than one too many, and then by its kind.
fn distance(tag: Option<&str>) -> u32 {
    let Some(tag) = tag else { return u32::MAX };
    let plain = tag.trim_start_matches("UD-");
    let digits: String =
        plain.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let bits = digits.parse::<u32>().unwrap_or(99).min(99);
    let by_bits = if bits < 4 { (4 - bits) * 15 } else { (bits - 4) * 10 };
    let kind = match plain.split_once('_').map_or("", |(_, kind)| kind) {
        "K_M" => 0,
        "K_S" | "K_L" | "K_XL" => 1,
        "K" => 2,
        "XS" | "NL" => 3,
        _ => 4,
    };
    by_bits + kind * 2 + u32::from(tag != plain)
}

fn listing(code: Code, message: String, name: &HubName, candidates: &[Candidate]) -> Failure {
    let best = recommended(candidates);
    let tags: Vec<_> = candidates.iter().map(|candidate| candidate.tag.as_deref()).collect();
    // Where two have the same tag, or one has none, the files are named instead.
    let by_path = tags.iter().enumerate().any(|(at, tag)| tag.is_none() || tags[..at].contains(tag));
    let mut lines: Vec<_> = candidates
        .iter()
        .enumerate()
        .map(|(at, candidate)| candidate.describe(by_path, at == best))
        .collect();
    if lines.len() > MAX_LISTED {
        let more = lines.len() - MAX_LISTED;
        let best_line = lines[best].clone();
        lines.truncate(MAX_LISTED);
        if best >= MAX_LISTED {
            lines.push(best_line);
        }
        lines.push(format!("and {more} more"));
    }
    let revision = name.revision.as_ref().map(|revision| format!("@{revision}")).unwrap_or_default();
    let choice = |(at, candidate): (usize, &Candidate)| Choice {
        model: match &candidate.tag {
            Some(tag) if !by_path => format!("{}:{tag}{revision}", name.repo),
            _ => format!("{}/{}{revision}", name.repo, candidate.path()),
        },
        size_bytes: candidate.size(),
        recommended: at == best,
    };
    let choices: Vec<_> = candidates.iter().enumerate().map(choice).collect();
    let mut failure = Failure::new(code, format!("{message}: {}", lines.join(", ")))
        .hint(format!("choose one, such as {}", choices[best].model));
    failure.choices = choices;
    failure
}

fn no_such_file(repo: &str, path: &str, files: &[RepositoryFile], candidates: &[Candidate]) -> Failure {
    if let Some(part) = SplitPart::parse(path)
        && files.iter().any(|file| file.path == path)
    {
        return Failure::new(
            Code::SourceNotFound,
            format!("{repo} has {path}, but not all {} parts of that model", part.count),
        )
        .hint("report it to the repository's owner, or choose another of its models");
    }
    let nearest = text::nearest(path, candidates.iter().map(Candidate::path));
    let hint = match nearest[..] {
        [] => format!("give {repo} alone to see its models"),
        _ => format!("the nearest: {}", nearest.join(", ")),
    };
    Failure::new(Code::SourceNotFound, format!("{repo} has no file {}", text::excerpt(path))).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<RepositoryFile> {
        let file = |(at, name): (usize, &&str)| RepositoryFile {
            path: (*name).to_owned(),
            size: Some((at as u64 + 1) << 30),
            sha256: None,
        };
        names.iter().enumerate().map(file).collect()
    }

    fn chosen(name: &str, names: &[&str]) -> Result<Vec<String>, Failure> {
        let name = HubName::parse_text(name).unwrap().unwrap();
        Ok(choose(&name, &files(names))?.files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn the_only_model_is_chosen_and_accessories_are_not_models() {
        let names =
            ["README.md", "m-Q8_0.gguf", "mmproj-m-f16.gguf", "m.imatrix.gguf", "m-draft-Q4_K_M.gguf"];
        assert_eq!(chosen("o/r", &names).unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(chosen("o/r/m-draft-Q4_K_M.gguf", &names).unwrap(), ["m-draft-Q4_K_M.gguf"]);
        assert_eq!(chosen("o/r", &["m-draft-Q4_0.gguf"]).unwrap(), ["m-draft-Q4_0.gguf"]);
        let model = choose(&HubName::parse_text("o/r").unwrap().unwrap(), &files(&names)).unwrap();
        assert_eq!(projector(&model, &files(&names)).unwrap().path, "mmproj-m-f16.gguf");
        assert_eq!(chosen("o/r", &["a.safetensors"]).unwrap_err().code, Code::SourceNotFound);
    }

    #[test]
    fn a_quantization_is_found_in_any_case_and_with_all_its_parts() {
        let names = [
            "m-Q8_0.gguf",
            "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf",
            "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf",
            "m-UD-Q4_K_XL.gguf",
            "m-IQ1_S-00001-of-00002.gguf",
        ];
        let parts = ["Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf"];
        assert_eq!(chosen("o/r:q4_k_m", &names).unwrap(), parts);
        assert_eq!(chosen(&format!("o/r/{}", parts[1]), &names).unwrap(), parts);
        assert_eq!(chosen("o/r:Q4_K_XL", &names).unwrap(), ["m-UD-Q4_K_XL.gguf"]);
        let failure = chosen("o/r/m-IQ1_S-00001-of-00002.gguf", &names).unwrap_err();
        assert!(failure.message.contains("not all 2 parts"), "{failure}");
    }

    #[test]
    fn a_missing_or_wrong_choice_lists_the_models() {
        let names = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"];
        let failure = chosen("o/r@dev", &names).unwrap_err();
        assert_eq!(failure.code, Code::ModelAmbiguous);
        assert_eq!(
            failure.message,
            "o/r has 3 models, and the name chooses none: Q2_K (1.0 GiB), Q4_K_M (2.0 GiB, recommended), \
             Q8_0 (3.0 GiB)"
        );
        assert_eq!(failure.hint.as_deref(), Some("choose one, such as o/r:Q4_K_M@dev"));
        let choices: Vec<_> = failure
            .choices
            .iter()
            .map(|choice| (&*choice.model, choice.size_bytes, choice.recommended))
            .collect();
        let expected = [
            ("o/r:Q2_K@dev", Some(1 << 30), false),
            ("o/r:Q4_K_M@dev", Some(2 << 30), true),
            ("o/r:Q8_0@dev", Some(3 << 30), false),
        ];
        assert_eq!(choices, expected);
        let failure = chosen("o/r:Q5_K_M", &names).unwrap_err();
        assert_eq!(failure.code, Code::SourceNotFound);
        assert!(failure.message.contains("Q4_K_M (2.0 GiB, recommended)"), "{failure}");
        let failure = chosen("o/r/m-Q4_K.gguf", &names).unwrap_err();
        assert!(failure.hint.unwrap().contains("m-Q4_K_M.gguf"));
    }

    #[test]
    fn models_with_the_same_quantization_are_named_by_their_files() {
        let failure = chosen("o/r:q8_0", &["a-Q8_0.gguf", "b/a-Q8_0.gguf", "a-Q4_0.gguf"]).unwrap_err();
        assert_eq!(failure.code, Code::ModelAmbiguous);
        assert!(failure.message.contains("b/a-Q8_0.gguf (2.0 GiB)"), "{failure}");
        assert_eq!(failure.hint.as_deref(), Some("choose one, such as o/r/a-Q8_0.gguf"));
        assert_eq!(failure.choices[1].model, "o/r/b/a-Q8_0.gguf");
    }

    #[test]
    fn the_quantization_nearest_to_q4_k_m_is_recommended() {
        let best = |tags: &[&str]| {
            let names: Vec<_> = tags.iter().map(|tag| format!("m-{tag}.gguf")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let candidates = candidates(&files(&names));
            candidates[recommended(&candidates)].tag.clone().unwrap()
        };
        assert_eq!(best(&["F16", "Q8_0", "Q4_K_S", "Q4_K_M", "Q5_K_M"]), "Q4_K_M");
        assert_eq!(best(&["F16", "Q8_0", "Q4_0", "Q3_K_M"]), "Q4_0");
        assert_eq!(best(&["BF16", "Q8_0", "Q2_K"]), "Q2_K");
        assert_eq!(best(&["BF16", "Q8_0", "Q6_K", "Q3_K_M"]), "Q3_K_M");
        assert_eq!(best(&["Q5_K_M", "Q3_K_M"]), "Q5_K_M");
    }
}
