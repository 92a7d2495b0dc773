use super::*;
use crate::engines::machine::Tools;

/// The files of releases as they are named over the time: the first line has the tag.
const B4567: &str = "b4567
cudart-llama-bin-win-cu11.7-x64.zip
cudart-llama-bin-win-cu12.4-x64.zip
llama-b4567-bin-macos-arm64.zip
llama-b4567-bin-macos-x64.zip
llama-b4567-bin-ubuntu-arm64.zip
llama-b4567-bin-ubuntu-vulkan-x64.zip
llama-b4567-bin-ubuntu-x64.zip
llama-b4567-bin-win-avx-x64.zip
llama-b4567-bin-win-avx2-x64.zip
llama-b4567-bin-win-avx512-x64.zip
llama-b4567-bin-win-cuda-cu11.7-x64.zip
llama-b4567-bin-win-cuda-cu12.4-x64.zip
llama-b4567-bin-win-hip-x64-gfx1030.zip
llama-b4567-bin-win-llvm-arm64-opencl-adreno.zip
llama-b4567-bin-win-noavx-x64.zip
llama-b4567-bin-win-vulkan-x64.zip
llama-b4567-xcframework.zip";
const B7902: &str = "b7902
cudart-llama-bin-win-cuda-12.4-x64.zip
cudart-llama-bin-win-cuda-13.1-x64.zip
llama-b7902-bin-310p-openEuler-aarch64.tar.gz
llama-b7902-bin-310p-openEuler-x86.tar.gz
llama-b7902-bin-910b-openEuler-aarch64-aclgraph.tar.gz
llama-b7902-bin-910b-openEuler-x86-aclgraph.tar.gz
llama-b7902-bin-macos-arm64-kleidiai.tar.gz
llama-b7902-bin-macos-arm64.tar.gz
llama-b7902-bin-macos-x64.tar.gz
llama-b7902-bin-ubuntu-rocm-7.2-x64.tar.gz
llama-b7902-bin-ubuntu-s390x.tar.gz
llama-b7902-bin-ubuntu-vulkan-x64.tar.gz
llama-b7902-bin-ubuntu-x64.tar.gz
llama-b7902-bin-win-cpu-arm64.zip
llama-b7902-bin-win-cpu-x64.zip
llama-b7902-bin-win-cuda-12.4-x64.zip
llama-b7902-bin-win-cuda-13.1-x64.zip
llama-b7902-bin-win-hip-radeon-x64.zip
llama-b7902-bin-win-opencl-adreno-arm64.zip
llama-b7902-bin-win-sycl-x64.zip
llama-b7902-bin-win-vulkan-x64.zip
llama-b7902-xcframework.zip";
const B11459: &str = "b11459
cudart-llama-b11459-bin-ubuntu-cuda-12.8-x64.tar.gz
cudart-llama-b11459-bin-ubuntu-cuda-13.4-arm64.tar.gz
cudart-llama-b11459-bin-ubuntu-cuda-13.4-x64.tar.gz
cudart-llama-bin-win-cuda-12.4-x64.zip
cudart-llama-bin-win-cuda-13.4-arm64.zip
cudart-llama-bin-win-cuda-13.4-x64.zip
llama-b11459-bin-android-arm64-snapdragon.tar.gz
llama-b11459-bin-android-arm64.tar.gz
llama-b11459-bin-linux-arm64-snapdragon.tar.gz
llama-b11459-bin-macos-arm64.tar.gz
llama-b11459-bin-macos-x64.tar.gz
llama-b11459-bin-ubuntu-arm64.tar.gz
llama-b11459-bin-ubuntu-cuda-12.8-x64.tar.gz
llama-b11459-bin-ubuntu-cuda-13.4-arm64.tar.gz
llama-b11459-bin-ubuntu-cuda-13.4-x64.tar.gz
llama-b11459-bin-ubuntu-openvino-2026.4.1-x64.tar.gz
llama-b11459-bin-ubuntu-rocm-10.0-x64.tar.gz
llama-b11459-bin-ubuntu-s390x.tar.gz
llama-b11459-bin-ubuntu-sycl-fp16-x64.tar.gz
llama-b11459-bin-ubuntu-sycl-fp32-x64.tar.gz
llama-b11459-bin-ubuntu-vulkan-arm64.tar.gz
llama-b11459-bin-ubuntu-vulkan-x64.tar.gz
llama-b11459-bin-ubuntu-x64.tar.gz
llama-b11459-bin-win-cpu-arm64.zip
llama-b11459-bin-win-cpu-x64.zip
llama-b11459-bin-win-cuda-12.4-x64.zip
llama-b11459-bin-win-cuda-13.4-arm64.zip
llama-b11459-bin-win-cuda-13.4-x64.zip
llama-b11459-bin-win-opencl-adreno-arm64.zip
llama-b11459-bin-win-openvino-2026.4.1-x64.zip
llama-b11459-bin-win-rocm-10.0-x64.zip
llama-b11459-bin-win-sycl-x64.zip
llama-b11459-bin-win-vulkan-arm64.zip
llama-b11459-bin-win-vulkan-x64.zip
llama-b11459-ui.tar.gz
llama-b11459-xcframework.zip";

fn release(list: &str) -> Release {
    let (tag, names) = list.split_once('\n').unwrap();
    let asset = |name: &str| {
        let url = format!("https://github.com/ggml-org/llama.cpp/releases/download/{tag}/{name}");
        serde_json::json!({ "name": name, "size": 1000, "browser_download_url": url })
    };
    let assets: Vec<_> = names.lines().map(asset).collect();
    let json = serde_json::json!({ "tag_name": tag, "assets": assets });
    Release::parse(json.to_string().as_bytes()).unwrap()
}

fn machine(os: &'static str, arch: &'static str) -> Machine {
    let kinds = DeviceKind::ALL.iter().map(|kind| KindHere::plain(*kind, String::new())).collect();
    Machine { os, arch, libc: Libc::Glibc, kinds, tools: Tools::default() }
}

fn with_nvidia(arch: &'static str, cuda: Option<(u32, u32)>, capabilities: &[&str]) -> Machine {
    let compute_capabilities = capabilities.iter().map(ToString::to_string).collect();
    let here = KindHere { cuda, compute_capabilities, ..KindHere::plain(DeviceKind::Cuda, String::new()) };
    Machine { kinds: vec![here], ..machine("linux", arch) }
}

fn chosen(list: &str, machine: &Machine, kind: DeviceKind) -> Result<String, String> {
    choose(&release(list), machine, kind).map(|chosen| chosen.archive.name).map_err(|unfit| unfit.to_string())
}

#[test]
fn each_system_gets_its_own_archive_of_every_time() {
    use DeviceKind::{Cpu, Metal, Rocm, Vulkan};
    let (linux, arm, mac, intel_mac, windows) = (
        machine("linux", "x86_64"),
        machine("linux", "aarch64"),
        machine("macos", "aarch64"),
        machine("macos", "x86_64"),
        machine("windows", "x86_64"),
    );
    for (list, machine, kind, name) in [
        (B4567, &linux, Cpu, "ubuntu-x64.zip"),
        (B4567, &linux, Vulkan, "ubuntu-vulkan-x64.zip"),
        (B4567, &arm, Cpu, "ubuntu-arm64.zip"),
        (B4567, &mac, Metal, "macos-arm64.zip"),
        (B4567, &windows, Vulkan, "win-vulkan-x64.zip"),
        (B7902, &linux, Cpu, "ubuntu-x64.tar.gz"),
        (B7902, &linux, Vulkan, "ubuntu-vulkan-x64.tar.gz"),
        (B7902, &mac, Metal, "macos-arm64.tar.gz"),
        (B7902, &mac, Cpu, "macos-arm64.tar.gz"),
        (B7902, &intel_mac, Cpu, "macos-x64.tar.gz"),
        (B7902, &windows, Cpu, "win-cpu-x64.zip"),
        (B7902, &windows, Rocm, "win-hip-radeon-x64.zip"),
        (B11459, &linux, Cpu, "ubuntu-x64.tar.gz"),
        (B11459, &linux, Vulkan, "ubuntu-vulkan-x64.tar.gz"),
        (B11459, &arm, Cpu, "ubuntu-arm64.tar.gz"),
        (B11459, &arm, Vulkan, "ubuntu-vulkan-arm64.tar.gz"),
        (B11459, &windows, Rocm, "win-rocm-10.0-x64.zip"),
    ] {
        let tag = list.lines().next().unwrap();
        assert_eq!(chosen(list, machine, kind), Ok(format!("llama-{tag}-bin-{name}")));
    }
    for (list, machine, kind) in [(B4567, &arm, Vulkan), (B7902, &arm, Cpu), (B4567, &windows, Cpu)] {
        assert!(chosen(list, machine, kind).unwrap_err().contains("has no archive for"), "{kind}");
    }
}

#[test]
fn what_only_looks_like_an_archive_of_an_engine_is_none() {
    let wanted = |name: &&str| ArchiveName::parse(name).is_some();
    let all = [B4567, B7902, B11459].map(|list| list.lines().skip(1).collect::<Vec<_>>()).concat();
    for name in all.iter().copied().filter(wanted) {
        for word in [
            "s390x",
            "openEuler",
            "kleidiai",
            "android",
            "snapdragon",
            "openvino",
            "sycl",
            "-ui",
            "xcframework",
        ] {
            assert!(!name.contains(word), "{name}");
        }
    }
    for name in
        ["", "llama", "llama-b1-bin-", "llama-b1-bin-ubuntu.tar.gz", "cudart-llama-bin-ubuntu-x64.zip"]
    {
        assert_eq!(ArchiveName::parse(name), None, "{name}");
    }
}

#[test]
fn cuda_is_chosen_by_driver_and_gpus_and_brings_its_libraries() {
    let linux = |cuda, capabilities: &[&str]| with_nvidia("x86_64", cuda, capabilities);
    for (machine, version) in [
        (linux(Some((12, 8)), &["9.0"]), "12.8"),
        // Within a major version an older driver will do.
        (linux(Some((12, 4)), &["8.9"]), "12.8"),
        (linux(Some((13, 0)), &["8.9"]), "12.8"),
        (linux(Some((13, 4)), &["8.9"]), "13.4"),
        (linux(Some((14, 0)), &["8.9"]), "13.4"),
        // CUDA 13 does not compile for old GPUs, not for one of several either.
        (linux(Some((13, 4)), &["6.1"]), "12.8"),
        (linux(Some((13, 4)), &["9.0", "7.0"]), "12.8"),
        (linux(Some((12, 8)), &["12.0"]), "12.8"),
    ] {
        let chosen = choose(&release(B11459), &machine, DeviceKind::Cuda).unwrap();
        assert_eq!(chosen.archive.name, format!("llama-b11459-bin-ubuntu-cuda-{version}-x64.tar.gz"));
        let libraries = chosen.libraries.as_ref().unwrap();
        assert_eq!(libraries.name, format!("cudart-llama-b11459-bin-ubuntu-cuda-{version}-x64.tar.gz"));
        assert_eq!(chosen.size_bytes(), 2000);
    }
    let windows = Machine { os: "windows", ..linux(Some((12, 6)), &["8.6"]) };
    let chosen_there = choose(&release(B7902), &windows, DeviceKind::Cuda).unwrap();
    assert_eq!(chosen_there.libraries.unwrap().name, "cudart-llama-bin-win-cuda-12.4-x64.zip");
    for (list, machine, why) in [
        (B11459, linux(Some((11, 8)), &["8.0"]), "need a driver for CUDA 12.8, and the one here is for 11.8"),
        (B11459, linux(None, &["8.0"]), "is for an unknown version"),
        (
            B11459,
            with_nvidia("aarch64", Some((13, 4)), &["7.2"]),
            "not for a GPU with the compute capability 7.2",
        ),
        (B7902, linux(Some((13, 0)), &["9.0"]), "b7902 has no archive for cuda on linux"),
    ] {
        let unfit = chosen(list, &machine, DeviceKind::Cuda).unwrap_err();
        assert!(unfit.contains(why), "{unfit}");
    }
}

#[test]
fn rocm_and_the_c_library_must_be_those_of_the_archive() {
    let rocm = |rocm| {
        let here = KindHere { rocm, ..KindHere::plain(DeviceKind::Rocm, String::new()) };
        Machine { kinds: vec![here], ..machine("linux", "x86_64") }
    };
    let name = "llama-b7902-bin-ubuntu-rocm-7.2-x64.tar.gz".to_owned();
    assert_eq!(chosen(B7902, &rocm(Some((7, 0))), DeviceKind::Rocm), Ok(name));
    let unfit = |here| chosen(B11459, &rocm(here), DeviceKind::Rocm).unwrap_err();
    assert!(unfit(Some((7, 2))).ends_with("needs ROCm 10, and 7.2 is here"));
    assert!(unfit(None).ends_with("none was found in /opt/rocm"));
    let alpine = Machine { libc: Libc::Musl, ..machine("linux", "x86_64") };
    assert_eq!(choose(&release(B11459), &alpine, DeviceKind::Cpu), Err(Unfit::Musl));
    let bare = Machine { kinds: Vec::new(), ..machine("linux", "x86_64") };
    assert_eq!(choose(&release(B11459), &bare, DeviceKind::Vulkan), Err(Unfit::NoDevice(DeviceKind::Vulkan)));
}
