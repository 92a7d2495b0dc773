//! The names of the archives in llama.cpp's releases: `llama-b11459-bin-ubuntu-cuda-12.8-x64.tar.gz`.
//!
//! A name is read from both ends, and what does not match exactly is none of an engine: the list of a release has
//! more that look like one (`…-macos-arm64-kleidiai`, `…-910b-openEuler-x86-aclgraph`, `…-ubuntu-s390x`, `…-ui`).

use crate::config::DeviceKind;

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.tar.gz`
    TarGz,
    /// `.zip`
    Zip,
}

/// What the name of an archive says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveName {
    /// Whether it has the CUDA libraries for an engine, and not the engine.
    pub is_libraries: bool,
    /// As [`std::env::consts::OS`].
    pub os: &'static str,
    /// As [`std::env::consts::ARCH`].
    pub arch: &'static str,
    /// What the engine is built for. The one for macOS on `aarch64` has Metal, too.
    pub kind: DeviceKind,
    /// The version of CUDA or `ROCm` that it is built for.
    pub version: Option<(u32, u32)>,
}

impl Format {
    /// The format that the end of a name tells.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let is = |end: &str| name.len() > end.len() && name.ends_with(end);
        if is(".tar.gz") || is(".tgz") {
            return Some(Self::TarGz);
        }
        is(".zip").then_some(Self::Zip)
    }

    /// What a file of this format begins with.
    #[must_use]
    pub const fn magic(self) -> &'static [u8] {
        match self {
            Self::TarGz => &[0x1f, 0x8b],
            Self::Zip => b"PK\x03\x04",
        }
    }

    /// The format of a file that begins with these bytes.
    #[must_use]
    pub fn of_contents(beginning: &[u8]) -> Option<Self> {
        [Self::TarGz, Self::Zip].into_iter().find(|format| beginning.starts_with(format.magic()))
    }
}

impl ArchiveName {
    /// Whether the engine in it is for that kind of device. The one for a Mac with Apple's processor has both.
    #[must_use]
    pub fn is_for(&self, kind: DeviceKind) -> bool {
        self.kind == if kind == DeviceKind::Metal { DeviceKind::Cpu } else { kind }
    }

    /// What the name says; `None` for the name of something else.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let stem = [".tar.gz", ".zip"].iter().find_map(|end| name.strip_suffix(end))?;
        let (is_libraries, rest) = match stem.strip_prefix("cudart-llama-") {
            // For Windows without the release, and for Linux with it.
            Some(rest) => (true, rest.strip_prefix("bin-").or_else(|| Some(rest.split_once("-bin-")?.1))?),
            None => (false, stem.strip_prefix("llama-")?.split_once("-bin-")?.1),
        };
        let mut words: Vec<_> = rest.split('-').collect();
        let arch = match words.pop()? {
            "x64" => "x86_64",
            "arm64" => "aarch64",
            _ => return None,
        };
        let (os, built_for) = words.split_first()?;
        let os = match *os {
            "ubuntu" => "linux",
            "macos" => "macos",
            "win" => "windows",
            _ => return None,
        };
        let (kind, version) = match *built_for {
            [] if os != "windows" => (DeviceKind::Cpu, None),
            ["cpu"] => (DeviceKind::Cpu, None),
            ["vulkan"] => (DeviceKind::Vulkan, None),
            ["cuda", version] => (DeviceKind::Cuda, Some(self::version(version.trim_start_matches("cu"))?)),
            ["rocm", version] => (DeviceKind::Rocm, Some(self::version(version)?)),
            ["hip", "radeon"] => (DeviceKind::Rocm, None),
            _ => return None,
        };
        (!is_libraries || kind == DeviceKind::Cuda).then_some(Self { is_libraries, os, arch, kind, version })
    }
}

/// `12.8` and `12.8.1` are `(12, 8)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.').unwrap_or((text, "0"));
    let minor = rest.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
