//! What an engine's program tells of what it knows, without being run.
//!
//! llama.cpp's programs and libraries have the names of their architectures and of the types of tensors as texts that
//! a NUL ends, among all other texts. A linker may store a name as the end of a longer text, so a name counts as
//! known if a text ends with it: a program says "no" for certain, and "yes" perhaps. A program that lacks names which
//! every llama.cpp knows tells nothing: it is another program, a script, or its libraries are elsewhere.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::models::gguf::TensorType;
use crate::{files, paths};

/// Architectures that llama.cpp has known since 2023.
const ARCHITECTURES: [&str; 7] = ["llama", "gpt2", "gptneox", "falcon", "starcoder", "refact", "mpt"];
/// Types of tensors that it has known as long.
const TYPES: [&str; 5] = ["f16", "q4_0", "q5_1", "q8_0", "q6_k"];
/// The beginning of the name of the library that a program needs where it does not have the architectures itself.
const LIBRARY: &str = "libllama";
/// The beginnings of the names of libraries that have names.
const LIBRARIES: [&str; 3] = [LIBRARY, "libggml-base", "libggml."];
/// The longest text that is kept, in bytes; of a longer one, its end.
const LONGEST: usize = 64;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// The files of an engine at one moment. Where they have changed, it is another engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::workers) struct ProgramFiles {
    #[serde(with = "paths::exact")]
    program: PathBuf,
    /// Of the program and its libraries together.
    bytes: u64,
    /// When the last of them was changed: milliseconds since the Unix epoch.
    modified: u64,
}

/// The names that a program of llama.cpp knows.
#[derive(Debug)]
pub(in crate::workers) struct Told {
    /// In lower case, each from its last byte to its first; sorted.
    reversed: Vec<Box<[u8]>>,
    knows_architectures: bool,
    knows_types: bool,
}

impl ProgramFiles {
    /// The files as they are now. Blocks.
    pub(in crate::workers) fn now(program: &Path) -> Option<Self> {
        let mut now = Self { program: program.to_owned(), bytes: 0, modified: 0 };
        for file in std::iter::once(program.to_owned()).chain(libraries_of(program)) {
            let metadata = std::fs::metadata(file).ok()?;
            now.bytes = now.bytes.saturating_add(metadata.len());
            now.modified = now.modified.max(files::modified_ms(&metadata)?);
        }
        Some(now)
    }

    /// Whether these are of the same program, changed or not.
    pub(in crate::workers) fn is_of(&self, other: &Self) -> bool {
        self.program == other.program
    }
}

impl Told {
    /// Reads the program, and the libraries beside it if it needs them; `None` where it tells nothing. Blocks.
    pub(in crate::workers) fn by(program: &Path) -> Option<Self> {
        let read = |words: &mut HashSet<Box<[u8]>>, file: &Path| {
            let read = files::open(file).and_then(|file| collect(file, words));
            read.inspect_err(
                |error| tracing::debug!(file = %file.display(), %error, "an engine cannot be read"),
            )
        };
        let mut words = HashSet::new();
        read(&mut words, program).ok()?;
        if words.iter().any(|word| word.starts_with(LIBRARY.as_bytes())) {
            for library in libraries_of(program) {
                read(&mut words, &library).ok()?;
            }
        }
        Some(Self::of(words)).filter(|told| told.knows_architectures)
    }

    fn of(words: HashSet<Box<[u8]>>) -> Self {
        let reverse = |mut word: Box<[u8]>| {
            word.reverse();
            word
        };
        let mut reversed: Vec<_> = words.into_iter().map(reverse).collect();
        reversed.sort_unstable();
        let mut told = Self { reversed, knows_architectures: false, knows_types: false };
        told.knows_architectures = ARCHITECTURES.iter().all(|name| told.knows(name));
        told.knows_types = TYPES.iter().all(|name| told.knows(name));
        told
    }

    /// Whether it may know that architecture.
    pub(in crate::workers) fn may_run(&self, architecture: &str) -> bool {
        self.knows(architecture)
    }

    /// Whether it may know that type of tensors. Of a type that the hive does not know, nobody can tell.
    pub(in crate::workers) fn may_compute(&self, kind: TensorType) -> bool {
        !self.knows_types || kind.name().is_none_or(|name| self.knows(name))
    }

    /// Whether one of its texts ends with that name.
    fn knows(&self, name: &str) -> bool {
        let wanted: Vec<u8> = name.bytes().rev().map(|byte| byte.to_ascii_lowercase()).collect();
        let at = self.reversed.partition_point(|word| **word < *wanted);
        self.reversed.get(at).is_some_and(|word| word.starts_with(&wanted))
    }
}

/// llama.cpp's libraries in the folder of a program, and in the folder `lib` beside that. Blocks.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let folders = program.parent().map(|folder| [folder.to_owned(), folder.join("../lib")]);
    let files = folders.into_iter().flatten().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        LIBRARIES.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
    };
    // Several names of one library are links.
    let found = files.flatten().map(|entry| entry.path()).filter(is_library);
    let mut found: Vec<_> = found.filter_map(|path| path.canonicalize().ok()).collect();
    found.retain(|path| path.is_file());
    found.sort_unstable();
    found.dedup();
    found
}

/// Collects the ends of the texts of a file that a NUL ends, in lower case.
fn collect(mut file: impl Read, words: &mut HashSet<Box<[u8]>>) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST + CHUNK];
    // Bytes of the buffer that were read before: the beginning of a text.
    let mut before = 0;
    loop {
        let read = match file.read(&mut buffer[before..]) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = before + read;
        for at in (before..end).filter(|at| buffer[*at] == 0) {
            let text = &buffer[at.saturating_sub(LONGEST)..at];
            let start = text.iter().rposition(|byte| !is_of_name(*byte)).map_or(0, |byte| byte + 1);
            let word = &text[start..];
            if word.len() > 1 && !words.contains(&*word.to_ascii_lowercase()) {
                words.insert(word.to_ascii_lowercase().into());
            }
        }
        before = end.min(LONGEST);
        buffer.copy_within(end - before..end, 0);
    }
}

const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with these texts.
    fn program(texts: &[&str]) -> Vec<u8> {
        let mut program = b"\x7fELF\x02\x01".to_vec();
        for text in texts {
            program.extend(text.as_bytes());
            program.push(0);
        }
        program
    }

    fn names() -> Vec<&'static str> {
        ARCHITECTURES.into_iter().chain(["f16", "q4_0", "q5_1", "q8_0", "q6_K"]).collect()
    }

    #[test]
    fn a_program_knows_the_names_that_its_texts_end_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("llama-server");
        let texts = [&names()[..], &["unknown model: gemma3", "modern-bert", "iq4_nl", "mamba2x"]].concat();
        std::fs::write(&path, program(&texts)).unwrap();
        let told = Told::by(&path).unwrap();
        for known in ["llama", "gemma3", "bert", "modern-bert", "starcoder"] {
            assert!(told.may_run(known), "{known}");
        }
        for unknown in ["gemma3n", "gemma", "mamba2", "starcoder2"] {
            assert!(!told.may_run(unknown), "{unknown}");
        }
        assert!(told.may_compute(TensorType::Q6K) && told.may_compute(TensorType::Iq4Nl));
        assert!(!told.may_compute(TensorType::Iq2Xxs));
        assert!(told.may_compute(TensorType::Other(144)), "nobody can tell");
    }

    #[test]
    fn a_program_without_the_usual_names_tells_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("llama-server");
        assert!(Told::by(&path).is_none(), "it is not there");
        for texts in [&[][..], &["llama", "gpt2"], &["#!/bin/sh"]] {
            std::fs::write(&path, program(texts)).unwrap();
            assert!(Told::by(&path).is_none(), "{texts:?}");
        }
        // One whose libraries have them, where it names them.
        let lib = folder.path().join("lib");
        std::fs::create_dir(&lib).unwrap();
        std::fs::write(lib.join("libllama.so.0.1"), program(&names())).unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let path = bin.join("llama-server");
        std::fs::write(&path, program(&["llama", "gpt2"])).unwrap();
        assert!(Told::by(&path).is_none(), "the library may be another program's");
        std::fs::write(&path, program(&["libllama.so.0"])).unwrap();
        let files = ProgramFiles::now(&path).unwrap();
        assert!(Told::by(&path).unwrap().may_run("mpt"));
        std::fs::write(lib.join("libllama.so.0.1"), program(&[&names()[..], &["gemma3n"]].concat())).unwrap();
        let newer = ProgramFiles::now(&path).unwrap();
        assert!(files != newer && files.is_of(&newer), "another library is another engine");
    }

    #[test]
    fn a_name_that_two_reads_share_is_found() {
        let mut bytes = vec![b'x'; CHUNK + LONGEST - 3];
        bytes.extend(b" gemma3\0");
        let mut words = HashSet::new();
        collect(&*bytes, &mut words).unwrap();
        assert!(words.contains(&b"gemma3"[..]));
    }

    #[test]
    fn a_real_llama_server_tells_its_architectures() {
        let Some(program) = std::env::var_os("RBEE_TEST_LLAMA_SERVER") else { return };
        let told = Told::by(Path::new(&program)).unwrap();
        assert!(told.knows_types);
        for known in ["llama", "gemma3", "gemma3n", "qwen3moe", "bert"] {
            assert!(told.may_run(known), "{known}");
        }
        assert!(!told.may_run("mamba9"));
        assert!(told.may_compute(TensorType::Iq4Nl) && told.may_compute(TensorType::Q4K));
    }
}
