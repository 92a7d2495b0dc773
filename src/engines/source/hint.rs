//! Why a build failed, by what its programs printed, and what to do about it.

use crate::error::Code;

/// A cause that lines tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// What a line that tells it contains, in lower case; any one of them.
    lines: &'static [&'static str],
    pub(super) code: Code,
    pub(super) hint: &'static str,
}

/// The causes, those that explain others first.
const CAUSES: &[Cause] = &[
    Cause {
        lines: &["no space left on device", "disk quota exceeded"],
        code: Code::DiskFull,
        hint: "free some space on that disk and install again: the build goes on where it was",
    },
    Cause {
        lines: &[
            "killed signal terminated",
            "fatal error: killed",
            "signal 9",
            "(killed)",
            "virtual memory exhausted",
            "cannot allocate memory",
            "out of memory",
            "bad_alloc",
        ],
        code: Code::EngineBuildFailed,
        hint: "the machine ran out of memory: unload models and install again, and the build goes on where it was",
    },
    Cause {
        lines: &[
            "no cmake_cxx_compiler could be found",
            "no cmake_c_compiler could be found",
            "c++: not found",
        ],
        code: Code::EngineBuildFailed,
        hint: "a C and C++ compiler is missing: install one (Debian, Ubuntu: apt install build-essential; \
               Fedora: dnf install gcc-c++; macOS: xcode-select --install)",
    },
    Cause {
        lines: &["unable to find a build program", "cmake_make_program is not set"],
        code: Code::EngineBuildFailed,
        hint: "neither ninja nor make is there: install one of them (Debian, Ubuntu: apt install ninja-build)",
    },
    Cause {
        lines: &[
            "cuda toolkit not found",
            "no cmake_cuda_compiler could be found",
            "failed to find nvcc",
            "could not find nvcc",
            "nvcc: not found",
            "specify cudatoolkit_root",
        ],
        code: Code::EngineBuildFailed,
        hint: "CUDA's compiler is missing: install NVIDIA's CUDA toolkit and have nvcc on PATH",
    },
    Cause {
        lines: &["unsupported gnu version", "unsupported clang version"],
        code: Code::EngineBuildFailed,
        hint: "CUDA's compiler does not work with this C++ compiler: install the version that it names, and set \
               [engine_builds] cmake_options = [\"-DCMAKE_CUDA_HOST_COMPILER=…\"]",
    },
    Cause {
        lines: &["could not find vulkan", "could not find glslc", "missing: vulkan", "glslc_executable"],
        code: Code::EngineBuildFailed,
        hint: "Vulkan's headers or its shader compiler is missing: install them (Debian, Ubuntu: apt install \
               libvulkan-dev glslc spirv-headers)",
    },
    Cause {
        lines: &["provided by \"hip\"", "rocm_path", "hip-config.cmake", "hipcc: not found"],
        code: Code::EngineBuildFailed,
        hint: "ROCm's compiler is missing: install ROCm with its HIP SDK and have hipcc on PATH",
    },
    Cause {
        lines: &["or higher is required.  you are running", "or higher is required. you are running"],
        code: Code::EngineBuildFailed,
        hint: "cmake is too old for these sources: install a newer one (pip install cmake has it)",
    },
    Cause {
        lines: &["no module named pip"],
        code: Code::EngineBuildFailed,
        hint: "this Python has no pip: install it (Debian, Ubuntu: apt install python3-pip), or name another Python \
               in [engine_builds] python",
    },
    Cause {
        lines: &["no matching distribution found", "could not find a version that satisfies"],
        code: Code::SourceNotFound,
        hint: "pip's registry has no such package or version, or cannot be reached: check the version, [engine_builds] \
               source_package and pip's own settings (pip config list)",
    },
    Cause {
        lines: &[
            "name resolution",
            "newconnectionerror",
            "max retries exceeded",
            "connection refused",
            "proxyerror",
        ],
        code: Code::ServerUnreachable,
        hint: "pip's registry cannot be reached: check the network and pip's own settings (pip config list)",
    },
];

/// The cause that a line tells, if it tells one.
pub(super) fn told_by(line: &str) -> Option<&'static Cause> {
    let line = line.to_ascii_lowercase();
    CAUSES.iter().find(|cause| cause.lines.iter().any(|text| line.contains(text)))
}

/// Of two causes, the one that explains the other.
pub(super) fn prefer(one: Option<&'static Cause>, other: Option<&'static Cause>) -> Option<&'static Cause> {
    CAUSES.iter().find(|cause| [one, other].contains(&Some(*cause)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines_name_what_is_missing() {
        for (line, hint) in [
            (
                "CMake Error at CMakeLists.txt:2 (project):   No CMAKE_CXX_COMPILER could be found.",
                "C++ compiler",
            ),
            ("c++: fatal error: Killed signal terminated program cc1plus", "memory"),
            ("ninja: build stopped: fatal error: writing a.o: No space left on device", "free some space"),
            ("  Could not find nvcc, please set CUDAToolkit_ROOT.", "CUDA toolkit"),
            ("Could NOT find Vulkan (missing: Vulkan_LIBRARY glslc) (found version \"\")", "Vulkan"),
            ("  CMake 3.28 or higher is required.  You are running version 3.10.2", "cmake is too old"),
            ("/usr/bin/python3: No module named pip", "has no pip"),
            ("ERROR: No matching distribution found for llama-cpp-python==9", "no such package"),
            ("[Errno -3] Temporary failure in name resolution'))", "cannot be reached"),
        ] {
            let cause = told_by(line).unwrap_or_else(|| panic!("{line}"));
            assert!(cause.hint.contains(hint), "{line}: {}", cause.hint);
        }
        assert_eq!(told_by("a.cpp:3:5: error: 'x' was not declared in this scope"), None);
        assert_eq!(told_by("-- Could NOT find OpenMP"), None);
    }

    #[test]
    fn the_cause_that_explains_the_other_is_preferred() {
        let (unreachable, none) = (told_by("ProxyError"), told_by("no matching distribution found"));
        assert_eq!(prefer(unreachable, none), none);
        assert_eq!(prefer(none, None), none);
        assert_eq!(prefer(None, None), None);
    }
}
