//! What cmake is told about a build.

use crate::config::DeviceKind;

/// The options for a build of `version` for one kind of device; `capabilities` are CUDA's compute capabilities of
/// the GPUs here, such as `8.9`. Those of `more` count most.
///
/// For this machine alone, in one file, without what a hive has or does itself: TLS, downloads, the page.
pub(super) fn options(
    kind: DeviceKind,
    capabilities: &[String],
    version: &str,
    more: &[String],
) -> Vec<String> {
    let mut options: Vec<String> = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_SHARED_LIBS=OFF",
        "-DGGML_NATIVE=ON",
        "-DGGML_CCACHE=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_APP=OFF",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_OPENSSL=OFF",
        "-DLLAMA_CURL=OFF",
    ]
    .map(str::to_owned)
    .into();
    // Otherwise they are those of a repository around the build, if there is one.
    let number = version.strip_prefix('b').filter(|number| number.parse::<u32>().is_ok()).unwrap_or("0");
    options.push(format!("-DLLAMA_BUILD_NUMBER={number}"));
    options.push(format!("-DLLAMA_BUILD_COMMIT={version}"));
    for (own, name) in [
        (DeviceKind::Cuda, "CUDA"),
        (DeviceKind::Metal, "METAL"),
        (DeviceKind::Rocm, "HIP"),
        (DeviceKind::Vulkan, "VULKAN"),
    ] {
        options.push(format!("-DGGML_{name}={}", if kind == own { "ON" } else { "OFF" }));
    }
    if kind == DeviceKind::Cuda && !capabilities.is_empty() {
        options.push(format!("-DCMAKE_CUDA_ARCHITECTURES={}", architectures(capabilities).join(";")));
    }
    options.extend(more.iter().cloned());
    options
}

/// CUDA's architectures for GPUs of these compute capabilities: code for these GPUs alone, which takes the least
/// time to build.
fn architectures(capabilities: &[String]) -> Vec<String> {
    let mut architectures: Vec<_> =
        capabilities.iter().map(|capability| format!("{}-real", capability.replace('.', ""))).collect();
    architectures.sort_unstable();
    architectures.dedup();
    architectures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: DeviceKind, capabilities: &[&str], version: &str, more: &[&str]) -> String {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        options(kind, &owned(capabilities), version, &owned(more)).join(" ")
    }

    #[test]
    fn the_wanted_kind_is_on_and_the_others_are_off() {
        let cpu = line(DeviceKind::Cpu, &["8.9"], "0.3.36", &[]);
        assert!(cpu.contains("-DGGML_CUDA=OFF -DGGML_METAL=OFF -DGGML_HIP=OFF -DGGML_VULKAN=OFF"), "{cpu}");
        assert!(cpu.contains("-DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT=0.3.36") && !cpu.contains("ARCH"));
        let cuda = line(DeviceKind::Cuda, &["9.0", "8.9", "9.0"], "b6789", &["-DGGML_NATIVE=OFF"]);
        assert!(cuda.contains("-DGGML_CUDA=ON") && cuda.contains("-DLLAMA_BUILD_NUMBER=6789"), "{cuda}");
        assert!(cuda.ends_with("-DCMAKE_CUDA_ARCHITECTURES=89-real;90-real -DGGML_NATIVE=OFF"), "{cuda}");
        assert!(!line(DeviceKind::Cuda, &[], "b1", &[]).contains("ARCHITECTURES"), "cmake chooses");
        assert!(line(DeviceKind::Rocm, &[], "b1", &[]).contains("-DGGML_HIP=ON"));
    }
}
