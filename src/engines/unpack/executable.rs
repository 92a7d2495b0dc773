//! Whether a program is one for this machine, by the beginning of its file.

use std::io::Read;
use std::path::Path;

use super::trouble::Trouble;
use crate::{disk, files, paths};

/// As many bytes as a check needs: a header of ELF (`elf(5)`), or one of Mach-O with the architectures in it.
const BEGINNING: u64 = 4096;

/// What a program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MadeFor {
    /// This system and processor.
    This,
    /// This system, but another processor.
    OtherProcessor,
    /// Another system, or it is no program.
    Other,
}

/// Checks that a file is a program for this machine, and makes it one that may be run, as its archive may not have
/// told. Blocks.
pub(super) fn check(program: &Path) -> Result<(), Trouble> {
    let mut beginning = Vec::new();
    let read = files::open(program).and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning));
    read.map_err(|error| Trouble::disk("read", program, error))?;
    match made_for(&beginning, std::env::consts::OS, std::env::consts::ARCH) {
        MadeFor::This => {}
        MadeFor::OtherProcessor => {
            let arch = std::env::consts::ARCH;
            return Err(Trouble::refused(format!(
                "its llama-server is not for the processor of this machine ({arch})"
            )));
        }
        MadeFor::Other => {
            let os = std::env::consts::OS;
            return Err(Trouble::refused(format!("its llama-server is no program of this system ({os})")));
        }
    }
    if paths::is_executable(program) {
        return Ok(());
    }
    disk::set_mode(program, 0o755).map_err(|error| Trouble::disk("make executable", program, error))
}

fn made_for(beginning: &[u8], os: &str, arch: &str) -> MadeFor {
    let is_arch = |x86: bool, arm: bool| match arch {
        "x86_64" => x86,
        "aarch64" => arm,
        _ => true,
    };
    let by = |is_it: bool| if is_it { MadeFor::This } else { MadeFor::OtherProcessor };
    match beginning {
        // A script runs wherever its interpreter is.
        [b'#', b'!', ..] => MadeFor::This,
        // ELF of 64 bits, its lower byte first: an executable, or one that may be anywhere in memory.
        [0x7f, b'E', b'L', b'F', class, order, ..] if os != "macos" && beginning.len() >= 20 => {
            let machine = u16::from_le_bytes([beginning[18], beginning[19]]);
            let is_program = matches!(beginning[16], 2 | 3);
            match is_program {
                true => by((*class, *order) == (2, 1) && is_arch(machine == 62, machine == 183)),
                false => MadeFor::Other,
            }
        }
        // Mach-O of 64 bits, its lower byte first.
        [0xcf, 0xfa, 0xed, 0xfe, kind @ ..] if os == "macos" => {
            by(is_arch(kind.starts_with(&[0x07, 0, 0, 0x01]), kind.starts_with(&[0x0c, 0, 0, 0x01])))
        }
        // Mach-O for several architectures, each described by 20 bytes, its higher byte first.
        [0xca, 0xfe, 0xba, 0xbe, _, _, _, count, architectures @ ..] if os == "macos" => {
            let has = |kind: [u8; 4]| {
                architectures.chunks_exact(20).take(usize::from(*count)).any(|one| one.starts_with(&kind))
            };
            by(is_arch(has([0x01, 0, 0, 0x07]), has([0x01, 0, 0, 0x0c])))
        }
        _ => MadeFor::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, kind: u8, machine: u8) -> Vec<u8> {
        let mut elf =
            vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, kind, 0, machine, 0];
        elf.resize(64, 0);
        elf
    }

    #[test]
    fn a_program_is_for_one_system_and_processor() {
        let (linux, mac) = ("linux", "macos");
        for (beginning, os, arch, expected) in [
            (elf(2, 3, 62), linux, "x86_64", MadeFor::This),
            (elf(2, 2, 183), linux, "aarch64", MadeFor::This),
            (elf(2, 3, 183), linux, "x86_64", MadeFor::OtherProcessor),
            (elf(1, 3, 3), linux, "x86_64", MadeFor::OtherProcessor),
            (elf(2, 1, 62), linux, "x86_64", MadeFor::Other),
            (elf(2, 3, 62), mac, "x86_64", MadeFor::Other),
            (b"\x7fELF\x02\x01".to_vec(), linux, "x86_64", MadeFor::Other),
            (b"#!/bin/sh\n".to_vec(), linux, "x86_64", MadeFor::This),
            (b"MZ\x90\0".to_vec(), linux, "x86_64", MadeFor::Other),
            (Vec::new(), linux, "x86_64", MadeFor::Other),
            (b"\xcf\xfa\xed\xfe\x0c\0\0\x01".to_vec(), mac, "aarch64", MadeFor::This),
            (b"\xcf\xfa\xed\xfe\x07\0\0\x01".to_vec(), mac, "aarch64", MadeFor::OtherProcessor),
            (b"\xcf\xfa\xed\xfe\x0c\0\0\x01".to_vec(), linux, "aarch64", MadeFor::Other),
        ] {
            assert_eq!(made_for(&beginning, os, arch), expected, "{beginning:?} on {os} {arch}");
        }
        let mut fat = b"\xca\xfe\xba\xbe\0\0\0\x02".to_vec();
        for kind in [7, 12] {
            fat.extend([1, 0, 0, kind]);
            fat.extend([0; 16]);
        }
        assert_eq!(made_for(&fat, mac, "aarch64"), MadeFor::This);
        assert_eq!(made_for(&fat[..28], mac, "aarch64"), MadeFor::OtherProcessor);
    }

    #[test]
    fn this_test_is_a_program_of_this_machine() {
        check(&std::env::current_exe().unwrap()).unwrap();
    }
}
