use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::error::Code;

/// An entry of a `.tar.gz`, as its bytes are to be.
struct TarEntry<'a> {
    name: &'a [u8],
    kind: EntryType,
    mode: u32,
    target: &'a str,
    contents: &'a [u8],
}

fn file<'a>(name: &'a str, contents: &'a [u8]) -> TarEntry<'a> {
    TarEntry { name: name.as_bytes(), kind: EntryType::Regular, mode: 0o644, target: "", contents }
}

fn program<'a>(name: &'a str) -> TarEntry<'a> {
    TarEntry { mode: 0o755, ..file(name, b"#!/bin/sh\n") }
}

fn link<'a>(name: &'a str, target: &'a str) -> TarEntry<'a> {
    TarEntry { kind: EntryType::Symlink, target, ..file(name, b"") }
}

/// The archive of these entries, whose names no library has checked.
fn tar_gz(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for entry in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name);
        header.as_old_mut().linkname[..entry.target.len()].copy_from_slice(entry.target.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_size(entry.contents.len() as u64);
        header.set_cksum();
        builder.append(&header, entry.contents).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// The archive of these files and links: names, modes with the kind, contents.
fn zipped(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, contents) in entries {
        let options = SimpleFileOptions::default().unix_permissions(mode & 0o777);
        if mode & 0o170_000 == 0o120_000 {
            writer.add_symlink(*name, String::from_utf8(contents.to_vec()).unwrap(), options).unwrap();
        } else {
            writer.start_file(*name, options).unwrap();
            writer.write_all(contents).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("into")).unwrap();
        Self { root }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("into")
    }

    fn put(&self, name: &str, archive: &[u8]) -> LocalArchive {
        let path = self.root.path().join(name);
        fs::write(&path, archive).unwrap();
        LocalArchive { path, size_bytes: archive.len() as u64, sha256: String::new(), is_own: true }
    }

    async fn engine(&self, archive: &[u8]) -> Result<Unpacked> {
        let archive = self.put("engine", archive);
        engine(&archive, None, &self.folder(), &CancellationToken::new()).await
    }

    /// What there is besides the archives: paths, with the contents, or the target of a link.
    fn contents(&self) -> BTreeMap<String, String> {
        let entries =
            walkdir::WalkDir::new(self.folder()).min_depth(1).into_iter().map(|entry| entry.unwrap());
        entries
            .filter(|entry| !entry.file_type().is_dir())
            .map(|entry| {
                let path = entry.path().strip_prefix(self.folder()).unwrap().display().to_string();
                let target = fs::read_link(entry.path()).map(|target| format!("-> {}", target.display()));
                (path, target.unwrap_or_else(|_| fs::read_to_string(entry.path()).unwrap()))
            })
            .collect()
    }
}

#[tokio::test]
async fn an_engine_is_unpacked_with_its_links_and_only_the_right_to_be_executed() {
    let place = Place::new();
    let archive = tar_gz(&[
        TarEntry { kind: EntryType::Directory, ..file("./llama-b1/", b"") },
        link("llama-b1/libllama.so", "libllama.so.0"),
        link("llama-b1/libllama.so.0", "./libllama.so.0.1"),
        TarEntry { mode: 0o6755, ..file("llama-b1/libllama.so.0.1", b"library") },
        program("llama-b1/llama-server"),
        file("llama-b1/share/doc/README.md", b"text"),
        link("llama-b1/share/doc/server", "../../llama-server"),
    ]);
    let unpacked = place.engine(&archive).await.unwrap();
    assert_eq!(unpacked.program, place.folder().join("llama-b1/llama-server"));
    assert_eq!(unpacked.size_bytes, 10 + 7 + 4);
    let contents = place.contents();
    assert_eq!(contents["llama-b1/libllama.so.0"], "-> ./libllama.so.0.1");
    assert_eq!(fs::read(place.folder().join("llama-b1/libllama.so")).unwrap(), b"library");
    assert_eq!(contents.len(), 6);
    let mode = |path: &str| fs::metadata(place.folder().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("llama-b1/libllama.so.0.1") & 0o6000, 0);
    assert!(mode("llama-b1/llama-server") & 0o100 != 0 && mode("llama-b1/share/doc/README.md") & 0o111 == 0);
}

#[tokio::test]
async fn a_zip_is_unpacked_and_its_program_made_executable() {
    let place = Place::new();
    let archive = zipped(&[
        ("build/bin/llama-server", 0o644, b"#!/bin/sh\n"),
        ("build/bin/libggml.so.1", 0o755, b"library"),
        ("build/bin/libggml.so", 0o120_777, b"libggml.so.1"),
    ]);
    let unpacked = place.engine(&archive).await.unwrap();
    assert_eq!(unpacked.program, place.folder().join("build/bin/llama-server"));
    assert!(crate::paths::is_executable(&unpacked.program));
    assert_eq!(place.contents()["build/bin/libggml.so"], "-> libggml.so.1");
}

#[tokio::test]
async fn the_libraries_go_beside_the_program() {
    let place = Place::new();
    let archive = place.put(
        "engine.tar.gz",
        &tar_gz(&[program("llama-b1/llama-server"), file("llama-b1/libcublas.so.12", b"its own")]),
    );
    let top = "cudart-llama-b1";
    let libraries = tar_gz(&[
        file(&format!("{top}/libcudart.so.12"), b"runtime"),
        link(&format!("{top}/libcudart.so"), "libcudart.so.12"),
        file(&format!("{top}/libcublas.so.12"), b"another"),
    ]);
    let libraries = place.put("libraries.tar.gz", &libraries);
    engine(&archive, Some(&libraries), &place.folder(), &CancellationToken::new()).await.unwrap();
    let contents = place.contents();
    assert_eq!(contents["llama-b1/libcudart.so.12"], "runtime");
    assert_eq!(contents["llama-b1/libcudart.so"], "-> libcudart.so.12");
    assert_eq!((contents["llama-b1/libcublas.so.12"].as_str(), contents.len()), ("its own", 4));
}

#[tokio::test]
async fn sources_are_taken_from_one_folder_of_an_archive() {
    let names = [
        "x-1/README.md",
        "x-1/vendor/llama.cpp/CMakeLists.txt",
        "x-1/vendor/llama.cpp/src/a.c",
        "x-1/vendor/z",
    ];
    let archive = tar_gz(&names.map(|name| file(name, b"text")));
    let place = Place::new();
    let archive = place.put("sources.tar.gz", &archive);
    let stop = CancellationToken::new();
    let bytes = sources(&archive.path, Some("vendor/llama.cpp"), &place.folder(), &stop).await.unwrap();
    assert_eq!(
        (bytes, place.contents().into_keys().collect::<Vec<_>>()),
        (8, vec!["CMakeLists.txt".to_owned(), "src/a.c".to_owned()])
    );
    let place = Place::new();
    let failure = sources(&archive.path, Some("vendor/other"), &place.folder(), &stop).await.unwrap_err();
    assert_eq!(failure.code, Code::EngineRefused);
}

/// Hostile archives: what each has besides a program, and why it is refused.
#[tokio::test]
async fn a_hostile_archive_is_refused_and_nothing_gets_outside() {
    let outside = "../outside";
    let deep = format!("{}x", "d/".repeat(40));
    let bomb = vec![0; 48 << 20];
    let device = |kind| TarEntry { kind, ..file("device", b"") };
    for (what, entries) in [
        ("an absolute path", vec![file("/tmp/rbee-outside", b"x")]),
        ("a path with ..", vec![file(outside, b"x")]),
        ("a path with ..", vec![file("a/../../outside", b"x")]),
        ("a name that is none of a file", vec![file("a\\..\\outside", b"x")]),
        ("a name that is none of a file", vec![file("a\nb", b"x")]),
        ("not UTF-8", vec![TarEntry { name: b"a\xff", ..file("", b"x") }]),
        ("too deep", vec![file(&deep, b"x")]),
        ("a link that leads out", vec![link("out", "..")]),
        ("a link that leads out", vec![link("out", "/etc")]),
        ("a link that leads out", vec![link("a/out", "../../outside")]),
        ("a link that leads out", vec![link("a/out", "../b/../../../outside")]),
        // Where the link before it is followed, it leads further than it says.
        ("a link that leads out", vec![link("d/e/f", "../.."), link("g", "d/e/f/../..")]),
        ("a link that leads out", vec![link("out", "")]),
        // A place of its own, but nothing may be written through it.
        ("through a file or a link", vec![link("here", "."), file("here/x", b"x")]),
        ("through a file or a link", vec![file("here", b""), file("here/x", b"x")]),
        ("a path that it has twice", vec![file("x", b"1"), file("./x", b"2")]),
        ("a path that it has twice", vec![link("x", "y"), file("x", b"2")]),
        ("a path that it has twice", vec![file("x/y", b"1"), file("x", b"2")]),
        ("a hard link", vec![TarEntry { kind: EntryType::Link, target: "/etc/passwd", ..file("x", b"") }]),
        ("a device", vec![device(EntryType::Char)]),
        ("a device", vec![device(EntryType::Block)]),
        ("a FIFO", vec![device(EntryType::Fifo)]),
        ("an unknown kind", vec![device(EntryType::GNUSparse)]),
        ("more than 8 GiB", vec![TarEntry { kind: EntryType::XHeader, ..file("p", b"12 size=999\n") }]),
        ("too long", vec![TarEntry { kind: EntryType::GNULongName, ..file("l", &bomb[..70 << 10]) }]),
        ("too much for its length", vec![file("bomb", &bomb)]),
    ] {
        let place = Place::new();
        let all: Vec<_> = std::iter::once(program("llama-server")).chain(entries).collect();
        let failure = place.engine(&tar_gz(&all)).await.unwrap_err();
        assert_eq!(failure.code, Code::EngineRefused, "{what}: {failure}");
        assert!(failure.message.contains(what), "{what}: {failure}");
        assert!(failure.hint.is_some() && failure.stage.as_deref() == Some("unpack"));
        let others = fs::read_dir(place.root.path()).unwrap().count();
        assert_eq!(others, 2, "{what}: nothing is beside the archive and its folder");
        assert!(!Path::new("/tmp/rbee-outside").exists());
        assert!(!place.contents().values().any(|contents| contents.starts_with("->")), "no link was made");
    }
}

#[tokio::test]
async fn a_hostile_zip_is_refused_too() {
    let twice = zipped(&[("llama-server", 0o755, b"#!x"), ("aa", 0o644, b"1"), ("ab", 0o644, b"2")]);
    let at: Vec<_> =
        twice.windows(2).enumerate().filter(|(_, two)| *two == b"ab").map(|(at, _)| at).collect();
    let mut twice = twice;
    at.into_iter().for_each(|at| twice[at + 1] = b'a');
    let mut device = zipped(&[("llama-server", 0o755, b"#!x"), ("device", 0o644, b"")]);
    // The modes stand in the upper half of the attributes: that of a file becomes that of a device.
    let mode = (0o100_644_u32 << 16).to_le_bytes();
    let at = device.windows(4).position(|four| four == mode).unwrap();
    device[at..at + 4].copy_from_slice(&(0o020_644_u32 << 16).to_le_bytes());
    let with = |name: &str, mode, contents: &[u8]| {
        zipped(&[("llama-server", 0o755, b"#!x"), (name, mode, contents)])
    };
    for (what, archive) in [
        ("an absolute path", with("/tmp/rbee-outside", 0o644, b"x")),
        ("a path with ..", with("../outside", 0o644, b"x")),
        ("a link that leads out", with("out", 0o120_777, b"../outside")),
        ("too much for its length", with("bomb", 0o644, &vec![0; 48 << 20])),
        ("twice", twice),
        ("a device", device),
    ] {
        let place = Place::new();
        let failure = place.engine(&archive).await.unwrap_err();
        assert!(failure.code == Code::EngineRefused && failure.message.contains(what), "{what}: {failure:?}");
        assert_eq!(fs::read_dir(place.root.path()).unwrap().count(), 2);
    }
}

#[tokio::test]
async fn an_archive_that_is_damaged_or_has_no_program_is_refused() {
    let whole = tar_gz(&[program("llama-server"), file("x", &[7; 5000])]);
    let mut changed = whole.clone();
    let end = changed.len() - 6;
    changed[end] ^= 1;
    let foreign = [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 9], &[2, 0, 8, 0, 1, 0, 0, 0]].concat();
    for (what, archive) in [
        ("cannot be unpacked", whole[..whole.len() - 20].to_vec()),
        ("cannot be unpacked", changed),
        ("cannot be unpacked", [whole.as_slice(), b"more"].concat()),
        ("neither a .tar.gz nor a .zip", b"<html>".to_vec()),
        ("neither a .tar.gz nor a .zip", Vec::new()),
        ("it is empty", tar_gz(&[])),
        (
            "it has no llama-server",
            tar_gz(&[file("llama-server.txt", b"x"), link("llama-server", "llama-server.txt")]),
        ),
        ("not for the processor of this machine", tar_gz(&[file("llama-server", &foreign)])),
        ("no program of this system", tar_gz(&[file("llama-server", b"MZ")])),
    ] {
        // Only ELF has a foreign processor on Linux.
        if what.contains("processor") && !cfg!(target_os = "linux") {
            continue;
        }
        let failure = Place::new().engine(&archive).await.unwrap_err();
        assert!(failure.code == Code::EngineRefused && failure.message.contains(what), "{what}: {failure:?}");
    }
    let zip = zipped(&[("llama-server", 0o755, &[b'#'; 3000])]);
    let failure = Place::new().engine(&zip[..zip.len() - 30]).await.unwrap_err();
    assert!(failure.message.contains("cannot be unpacked"), "{failure:?}");
}

#[tokio::test]
async fn the_number_of_entries_has_a_bound_and_names_may_be_long() {
    let place = Place::new();
    let names: Vec<_> = (0..5).map(|number| number.to_string()).collect();
    let archive =
        place.put("x.tar.gz", &tar_gz(&names.iter().map(|name| file(name, b"x")).collect::<Vec<_>>()));
    let stop = CancellationToken::new();
    let limits = Limits { entries: 4, ..Limits::of_archive(0) };
    let unpack =
        |limits| unpack_blocking(&archive.path, &place.folder(), Selection::All, Some(limits), &stop);
    assert!(matches!(unpack(limits), Err(Trouble::Refused(why)) if why.contains("more than 4 entries")));

    let name = format!("llama-b1/{}", "n".repeat(200));
    for described in [EntryType::GNULongName, EntryType::XHeader] {
        let pax = format!("{} path={name}\n", name.len() + 10);
        let text = if described == EntryType::XHeader { pax } else { format!("{name}\0") };
        let archive = tar_gz(&[
            program("llama-server"),
            TarEntry { kind: described, ..file("././@LongLink", text.as_bytes()) },
            file("short", b"long"),
            file("other", b"x"),
        ]);
        let place = Place::new();
        place.engine(&archive).await.unwrap();
        assert_eq!(place.contents()[&name], "long");
        assert_eq!(place.contents().len(), 3);
    }
}

#[tokio::test]
async fn unpacking_ends_when_it_is_cancelled() {
    let place = Place::new();
    let archive = place.put("x.tar.gz", &tar_gz(&[program("llama-server")]));
    let stop = CancellationToken::new();
    stop.cancel();
    let failure = engine(&archive, None, &place.folder(), &stop).await.unwrap_err();
    assert_eq!(failure.code, Code::Cancelled);
}
