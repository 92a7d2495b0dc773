//! The journal of a partial file: which of the file's bytes are stored, and their checksums.
//!
//! The first line says which file it is: `rbee-partial VERSION CRC32 {JSON}`, where unknown fields are
//! kept. Records of 16 bytes follow, each written after the bytes that it claims: chunk, length,
//! CRC-32 of those bytes, CRC-32 of the record itself, all little-endian. Of two records for one chunk
//! the later counts.
//!
//! Invariants:
//! - A torn or damaged record loses its own chunk alone; a damaged first line loses the whole partial,
//!   which is reported when the hive starts and removed when the file is downloaded again.
//! - A record is a claim and no proof. After a power cut the journal may claim bytes that did not reach
//!   the disk, so the hasher compares them with the checksum.
//! - A journal of a newer version, and its partial file, are left alone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk;
use crate::files;
use crate::models::transfer::disk::Disk;
use crate::models::transfer::remote::{ModelFile, RemoteFile};
use crate::text;

const MARK: &str = "rbee-partial ";
/// The version of the format that is read and written.
const VERSION: u32 = 1;
const RECORD: usize = 16;
/// The longest journal that is read, in bytes: of a file of 16 TiB in chunks of 1 MiB.
const MAX_BYTES: u64 = 512 << 20;

/// Which file a partial file is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// As in [`RemoteFile`].
    pub(crate) name: String,
    /// As in [`RemoteFile`].
    pub(crate) source: String,
    /// SHA-256 of the whole URL, whose query is not kept.
    pub(crate) url_sha256: String,
    /// Size in bytes.
    pub(crate) size: Option<u64>,
    /// As in [`RemoteFile`].
    pub(crate) sha256: Option<String>,
    /// As in [`RemoteFile`].
    pub(crate) version: Option<String>,
    /// As in [`RemoteFile`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) companion_of: Option<ModelFile>,
    /// The server's name of this version of the bytes: the value of `If-Range`.
    pub(crate) validator: Option<String>,
    /// Length of a chunk in bytes.
    pub(crate) chunk_bytes: u64,
}

/// The stored bytes of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// How many, from the chunk's front.
    pub(crate) length: u32,
    /// Their CRC-32.
    pub(crate) crc: u32,
}

/// A record of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) chunk: u32,
    pub(crate) stored: Stored,
}

/// What a journal says.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) head: Head,
    /// In the order in which they were written.
    pub(crate) claims: Vec<Claim>,
    /// Where the next record goes.
    end: u64,
}

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    end: u64,
    disk: Arc<dyn Disk>,
}

/// Where the journal of a partial file lies.
pub(crate) fn path_of(partial: &Path) -> PathBuf {
    let mut path = partial.as_os_str().to_owned();
    path.push(".journal");
    path.into()
}

/// The partial file that a journal is of. `None` where the path is no journal's.
pub(crate) fn partial_of(journal: &Path) -> Option<PathBuf> {
    Some(journal.with_file_name(journal.file_name()?.to_str()?.strip_suffix(".journal")?))
}

/// Whether the journal at `path` has a newer version of the format than this hive knows.
pub(crate) fn is_newer(path: &Path) -> bool {
    let bytes = read(path).unwrap_or_default();
    let line = bytes.split(|&byte| byte == b'\n').next();
    line.and_then(split_version).is_some_and(|(version, _)| version > VERSION)
}

/// Whether the first line of the journal at `path` is damaged. One that was never written to its end is
/// not.
pub(crate) fn is_damaged(path: &Path) -> bool {
    let bytes = read(path).unwrap_or_default();
    bytes.contains(&b'\n') && Contents::parse(&bytes).is_none() && !is_newer(path)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let is_journal = metadata.is_file() && metadata.len() <= MAX_BYTES;
    is_journal.then(|| files::read(path, MAX_BYTES).ok())?
}

/// The version of the format, and the rest of the first line.
fn split_version(line: &[u8]) -> Option<(u32, &str)> {
    let (version, rest) = std::str::from_utf8(line).ok()?.strip_prefix(MARK)?.split_once(' ')?;
    Some((version.parse().ok()?, rest))
}

impl Head {
    /// The head of a transfer of `file` before a server has told more of it.
    pub(crate) fn of(file: &RemoteFile, chunk_bytes: u64) -> Self {
        Self {
            name: file.name.clone(),
            source: file.source.clone(),
            url_sha256: text::hex(&Sha256::digest(file.url.as_str())),
            size: file.size,
            sha256: file.sha256.clone(),
            version: file.version.clone(),
            companion_of: file.companion_of.clone(),
            validator: None,
            chunk_bytes,
        }
    }

    /// Whether a partial file with this head can be resumed as `wanted`: both are the same file by the
    /// most certain mark that both have.
    pub(crate) fn is_resumed_by(&self, wanted: &Self) -> bool {
        let is_same_size = match (self.size, wanted.size) {
            (None, _) => false,
            (Some(size), Some(wanted)) => size == wanted,
            (Some(_), None) => true,
        };
        let is_same_file = match ((&self.sha256, &wanted.sha256), (&self.version, &wanted.version)) {
            ((Some(one), Some(other)), _) | (_, (Some(one), Some(other))) => one == other,
            _ => self.url_sha256 == wanted.url_sha256,
        };
        is_same_size && is_same_file && self.is_resumable()
    }

    /// Whether bytes of two requests can be combined, because a change of the file would show.
    pub(crate) fn is_resumable(&self) -> bool {
        self.validator.is_some() || self.sha256.is_some()
    }

    fn line(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{MARK}{VERSION} {:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes())
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let (version, rest) = split_version(line)?;
        let (crc, json) = rest.split_once(' ').filter(|_| version == VERSION)?;
        // As text: a digit of another case has the same value, and is damage all the same.
        let is_sound = crc == format!("{:08x}", crc32fast::hash(json.as_bytes()));
        let head: Self = is_sound.then(|| serde_json::from_str(json).ok())??;
        (head.chunk_bytes > 0 && u32::try_from(head.chunk_bytes).is_ok()).then_some(head)
    }
}

impl Claim {
    fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        for (slot, word) in bytes.chunks_exact_mut(4).zip([self.chunk, self.stored.length, self.stored.crc]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let check = crc32fast::hash(&bytes[..12]);
        bytes[12..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn parse(record: &[u8; RECORD]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| record[4 * at + byte]));
        let is_sound = word(3) == crc32fast::hash(&record[..12]);
        is_sound.then(|| Self { chunk: word(0), stored: Stored { length: word(1), crc: word(2) } })
    }
}

impl Contents {
    /// What the journal at `path` says; `None` where there is none that can be used.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        Self::parse(&read(path)?)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let line = bytes.iter().position(|&byte| byte == b'\n')?;
        let head = Head::parse(&bytes[..line])?;
        let (records, _torn) = bytes[line + 1..].as_chunks::<RECORD>();
        let claims = records.iter().filter_map(Claim::parse).collect();
        let end = (line + 1 + records.len() * RECORD) as u64;
        Some(Self { head, claims, end })
    }

    /// How many bytes of the file the journal claims.
    pub(crate) fn done(&self) -> u64 {
        let mut latest = std::collections::HashMap::new();
        for claim in &self.claims {
            latest.insert(claim.chunk, u64::from(claim.stored.length));
        }
        latest.values().sum()
    }
}

impl Journal {
    /// Begins a journal, in place of one that may be there.
    pub(crate) fn create(path: &Path, head: &Head, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let file = disk::open(Self::options().create(true).truncate(true), path)?;
        let line = head.line()?;
        disk.write_all_at(&file, &line, 0)?;
        Ok(Self { file, end: line.len() as u64, disk })
    }

    /// Opens a journal that was read, to append to it.
    pub(crate) fn resume(path: &Path, contents: &Contents, disk: Arc<dyn Disk>) -> io::Result<Self> {
        Ok(Self { file: Self::options().open(path)?, end: contents.end, disk })
    }

    /// Claims bytes, which must have been written before.
    pub(crate) fn append(&mut self, claim: Claim) -> io::Result<()> {
        // In place of a record that a full disk has torn.
        self.disk.write_all_at(&self.file, &claim.to_bytes(), self.end)?;
        self.end += RECORD as u64;
        Ok(())
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        options
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::models::transfer::disk::RealDisk;

    fn head() -> Head {
        Head {
            name: "m.gguf".into(),
            source: "https://h/m.gguf".into(),
            url_sha256: "00".into(),
            size: Some(1000),
            sha256: None,
            version: None,
            companion_of: None,
            validator: Some("\"1\"".into()),
            chunk_bytes: 100,
        }
    }

    fn written(claims: &[Claim]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.journal");
        let mut journal = Journal::create(&path, &head(), Arc::new(RealDisk)).unwrap();
        claims.iter().for_each(|claim| journal.append(*claim).unwrap());
        fs::read(&path).unwrap()
    }

    fn claim(chunk: u32, length: u32, crc: u32) -> Claim {
        Claim { chunk, stored: Stored { length, crc } }
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let parts = (0..10u32, 0..=100u32, any::<u32>());
        prop::collection::vec(parts.prop_map(|(chunk, length, crc)| claim(chunk, length, crc)), 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_cut_journal_has_a_prefix_of_its_claims(claims in claims(), cut in any::<prop::sample::Index>()) {
            let bytes = written(&claims);
            let cut = cut.index(bytes.len() + 1);
            match Contents::parse(&bytes[..cut]) {
                Some(contents) => {
                    prop_assert_eq!(&contents.claims[..], &claims[..contents.claims.len()]);
                    prop_assert!(contents.end <= cut as u64);
                }
                None => prop_assert!(cut < bytes.len() - claims.len() * RECORD),
            }
        }

        #[test]
        fn a_flipped_bit_loses_one_claim_or_all(
            claims in claims(), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let mut bytes = written(&claims);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Some(contents) = Contents::parse(&bytes) {
                prop_assert_eq!(&contents.head, &head());
                prop_assert_eq!(contents.claims.len(), claims.len() - 1);
                prop_assert!(contents.claims.iter().all(|claim| claims.contains(claim)));
            }
        }
    }

    #[test]
    fn a_torn_record_is_overwritten_when_the_journal_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.journal");
        let claim = |chunk| claim(chunk, 100, 7);
        let mut bytes = written(&[claim(0), claim(1)]);
        bytes.truncate(bytes.len() - 5);
        fs::write(&path, bytes).unwrap();
        let contents = Contents::read(&path).unwrap();
        assert_eq!(contents.claims, [claim(0)]);
        Journal::resume(&path, &contents, Arc::new(RealDisk)).unwrap().append(claim(2)).unwrap();
        let contents = Contents::read(&path).unwrap();
        assert_eq!((&contents.claims[..], contents.done()), (&[claim(0), claim(2)][..], 200));
    }

    #[test]
    fn unknown_fields_of_the_head_are_kept_and_newer_versions_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.journal");
        let json = serde_json::to_string(&head()).unwrap().replacen('{', "{\"later\":[1],", 1);
        let line = |version| format!("{MARK}{version} {:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        fs::write(&path, line(1)).unwrap();
        let contents = Contents::read(&path).unwrap();
        assert_eq!(contents.head, head());
        Journal::resume(&path, &contents, Arc::new(RealDisk)).unwrap().append(claim(0, 100, 7)).unwrap();
        assert!(fs::read(&path).unwrap().starts_with(line(1).as_bytes()));
        assert!(!is_newer(&path) && !is_newer(folder.path()));
        fs::write(&path, line(2)).unwrap();
        assert!(is_newer(&path) && Contents::read(&path).is_none() && !is_damaged(&path));
        fs::write(&path, line(1).replace("later", "Later")).unwrap();
        assert!(is_damaged(&path) && Contents::read(&path).is_none());
        let cut = line(1).len() - 1;
        fs::write(&path, &line(1)[..cut]).unwrap();
        assert!(!is_damaged(&path), "it was never written to its end");
    }

    #[test]
    fn only_the_same_version_of_a_file_is_resumed() {
        let old = head();
        assert!(old.is_resumed_by(&Head { validator: None, ..head() }), "the server is asked for that");
        assert!(!old.is_resumed_by(&Head { size: Some(1001), ..head() }));
        assert!(!old.is_resumed_by(&Head { url_sha256: "01".into(), ..head() }));
        assert!(!Head { validator: None, ..head() }.is_resumed_by(&old), "nothing would tell a change");
        let promised = |sha256: &str| Head { sha256: Some(sha256.into()), validator: None, ..head() };
        assert!(promised("a").is_resumed_by(&Head { url_sha256: "01".into(), ..promised("a") }));
        assert!(!promised("a").is_resumed_by(&promised("b")));
    }
}
