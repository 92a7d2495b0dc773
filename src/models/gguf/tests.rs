//! Every refusal of the reader, on files made in memory.

use std::fs;
use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::error::Code;

fn small() -> Writer {
    let mut writer = Writer::default();
    writer
        .metadata("general.architecture", Value::String("llama".into()))
        .metadata("general.name", Value::String("small".into()))
        .metadata("general.file_type", Value::U32(15))
        .metadata("llama.context_length", Value::U32(2048))
        .metadata("tokenizer.ggml.tokens", Value::Array(Array::String(vec!["a".into(), "bc".into()])))
        .metadata("tokenizer.ggml.scores", Value::Array(Array::F32(vec![-1.0, 2.5])))
        .metadata("flag", Value::Bool(true))
        .tensor("one", &[32, 2], TensorType::Q8_0, vec![1; 68])
        .tensor("two", &[3], TensorType::F32, vec![0; 12]);
    writer
}

fn bytes(writer: &Writer) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8], arrays: Arrays) -> Result<Header, GgufError> {
    Header::from_reader(Cursor::new(bytes), bytes.len() as u64, arrays)
}

/// The error of a file, which both ways of reading must give.
fn error_of(bytes: &[u8]) -> GgufError {
    let kept = read(bytes, Arrays::Keep).expect_err("an error");
    let skipped = read(bytes, Arrays::Skip).expect_err("an error");
    assert_eq!(kept.to_string(), skipped.to_string(), "both ways of reading refuse alike");
    kept
}

/// The field and the problem of a file that contradicts itself.
fn refusal(bytes: &[u8]) -> (String, String) {
    match error_of(bytes) {
        GgufError::Malformed { field, problem } => (field, problem),
        error => panic!("not refused as malformed: {error:?}"),
    }
}

/// The field and the problem of a file that the reader does not know.
fn unknown(bytes: &[u8]) -> (String, String) {
    match error_of(bytes) {
        GgufError::Unknown { field, problem } => (field, problem),
        error => panic!("not refused as unknown: {error:?}"),
    }
}

#[track_caller]
fn refuses(writer: &Writer, field: &str, problem: &str) {
    let (found, why) = refusal(&bytes(writer));
    assert_eq!(found, field);
    assert!(why.contains(problem), "{why:?} does not say {problem:?}");
}

/// A writer whose one pair has the given type and raw bytes.
fn raw_pair(kind: u32, value: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    file.push(b'k');
    file.extend(kind.to_le_bytes());
    file.extend(value);
    file.resize(file.len() + 64, 0);
    file
}

#[test]
fn a_sound_file_is_read_completely() {
    let file = bytes(&small());
    let header = read(&file, Arrays::Keep).unwrap();
    assert_eq!((header.version, header.alignment), (3, 32));
    assert_eq!(header.architecture(), Some("llama"));
    assert_eq!(header.name(), Some("small"));
    assert_eq!(header.quantization().as_deref(), Some("Q4_K_M"));
    assert_eq!(header.context_length(), Some(2048));
    assert_eq!(header.parameter_count(), 67);
    assert_eq!(header.metadata.strings("tokenizer.ggml.tokens").unwrap(), ["a", "bc"]);
    assert_eq!(header.metadata.f32s("tokenizer.ggml.scores").unwrap(), [-1.0, 2.5]);
    assert_eq!(header.metadata.bool("flag"), Some(true));
    assert_eq!(header.metadata.str("flag"), None, "a value of another type is no string");
    assert_eq!(header.data_offset % 32, 0);
    let one = header.tensor("one").unwrap();
    assert_eq!(
        (one.shape.as_slice(), one.kind, one.offset, one.bytes),
        (&[32, 2][..], TensorType::Q8_0, 0, 68)
    );
    assert_eq!(header.tensor("two").unwrap().offset, 96);
}

#[test]
fn skipped_arrays_keep_their_length_and_nothing_else_changes() {
    let file = bytes(&small());
    let (kept, skipped) = (read(&file, Arrays::Keep).unwrap(), read(&file, Arrays::Skip).unwrap());
    assert_eq!(skipped.metadata.array("tokenizer.ggml.tokens"), Some(&Array::Skipped { len: 2 }));
    assert_eq!(skipped.metadata.array("tokenizer.ggml.scores"), Some(&Array::Skipped { len: 2 }));
    assert_eq!((kept.tensors, kept.data_offset), (skipped.tensors, skipped.data_offset));
}

#[test]
fn every_type_of_value_is_written_and_read_back() {
    let arrays = [
        Array::U8(vec![1]),
        Array::I8(vec![-1]),
        Array::U16(vec![2]),
        Array::I16(vec![-2]),
        Array::U32(vec![3]),
        Array::I32(vec![-3]),
        Array::U64(vec![4]),
        Array::I64(vec![-4]),
        Array::F32(vec![0.5]),
        Array::F64(vec![0.25]),
        Array::Bool(vec![true, false]),
        Array::String(vec!["ß".into()]),
    ];
    let mut values = vec![
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::U64(4),
        Value::I64(-4),
        Value::F32(0.5),
        Value::F64(0.25),
        Value::Array(Array::Nested(arrays.to_vec())),
    ];
    values.extend(arrays.map(Value::Array));
    let mut writer = Writer::default();
    for (index, value) in values.iter().enumerate() {
        writer.metadata(format!("key.{index}"), value.clone());
    }
    let header = read(&bytes(&writer), Arrays::Keep).unwrap();
    for (index, value) in values.iter().enumerate() {
        assert_eq!(header.metadata.get(&format!("key.{index}")), Some(value));
    }
    assert_eq!(header.metadata.u64("key.0"), Some(1));
    assert_eq!(header.metadata.u64("key.1"), None, "a negative number is no size");
    assert_eq!(header.metadata.f64("key.8"), Some(0.5));
}

#[test]
fn without_a_stated_file_type_the_type_of_most_bytes_is_used() {
    let mut writer = Writer::default();
    writer.tensor("a", &[8], TensorType::F32, vec![0; 32]).tensor("b", &[256], TensorType::Q4K, vec![0; 144]);
    assert_eq!(read(&bytes(&writer), Arrays::Skip).unwrap().quantization().as_deref(), Some("Q4_K"));
    assert_eq!(read(&bytes(&Writer::default()), Arrays::Skip).unwrap().quantization(), None);
}

#[test]
fn a_file_cut_off_anywhere_is_refused_and_trailing_bytes_are_not() {
    let mut file = bytes(&small());
    // The padding behind the last tensor carries nothing; the file is whole without it.
    let needed = file.len() - 20;
    for len in 0..needed {
        let error = error_of(&file[..len]);
        assert!(matches!(error, GgufError::Truncated { .. }), "cut at {len}: {error:?}");
    }
    read(&file[..needed], Arrays::Keep).unwrap();
    file.extend([0; 1000]);
    read(&file, Arrays::Keep).unwrap();
}

#[test]
fn absurd_counts_are_refused_before_anything_is_allocated() {
    for at in [8, 16] {
        let mut file = bytes(&small());
        file[at..at + 8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        let (field, _) = refusal(&file);
        assert_eq!(field, if at == 8 { "tensor count" } else { "metadata count" });
    }
    let huge = (1_u64 << 60).to_le_bytes();
    for kind in 0_u32..=12 {
        let array: Vec<u8> = kind.to_le_bytes().into_iter().chain(huge).collect();
        assert_eq!(refusal(&raw_pair(9, &array)).0, "metadata[0] k");
    }
    assert_eq!(refusal(&raw_pair(8, &huge)).0, "metadata[0] k");
    assert_eq!(refusal(&raw_pair(8, &u64::MAX.to_le_bytes())).0, "metadata[0] k");
    // A sparse file may really be that long; the header may not.
    let file = raw_pair(8, &(1_u64 << 40).to_le_bytes());
    let error = Header::from_reader(Cursor::new(&file), 1 << 50, Arrays::Keep).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[test]
fn wrong_magic_and_versions_are_refused() {
    let mut file = bytes(&small());
    file[0] = b'g';
    assert_eq!(refusal(&file).0, "magic");
    assert!(refusal(&raw_pair(7, &[2])).1.contains("not a boolean"));
    let with_version = |version: u32| {
        let mut file = bytes(&small());
        file[4..8].copy_from_slice(&version.to_le_bytes());
        file
    };
    for version in [0, 256, 0x4142_4344, u32::MAX] {
        assert_eq!(refusal(&with_version(version)).0, "version", "{version}");
    }
    for (version, says) in [(1, "too old"), (4, "newer"), (255, "newer"), (3 << 24, "big-endian")] {
        let (field, problem) = unknown(&with_version(version));
        assert_eq!(field, "version");
        assert!(problem.contains(says), "{problem}");
    }
}

#[test]
fn types_that_are_not_known_are_no_damage() {
    assert!(unknown(&raw_pair(13, &[])).1.contains("type of value 13"));
    assert!(unknown(&raw_pair(9, &[99, 0, 0, 0])).1.contains("type of element 99"));
    let nested: Vec<u8> = (0..6).flat_map(|_| [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).collect();
    assert!(unknown(&raw_pair(9, &nested)).1.contains("nested"));

    let mut writer = small();
    writer.tensor("new", &[100], TensorType::Other(144), vec![1; 40]);
    writer.tensor("last", &[7], TensorType::Other(145), vec![1; 9]);
    let header = read(&bytes(&writer), Arrays::Skip).unwrap();
    let size = |name: &str| header.tensor(name).unwrap().bytes;
    assert_eq!((size("two"), size("new"), size("last")), (12, 64, 32), "up to the next tensor, or the end");
    assert_eq!(header.unknown().as_deref(), Some("tensor new has the type number 144"));
    assert_eq!(read(&bytes(&small()), Arrays::Skip).unwrap().unknown(), None);
}

#[test]
fn duplicate_keys_and_tensors_are_refused() {
    refuses(small().metadata("flag", Value::U8(0)), "metadata[7] flag", "twice");
    refuses(small().tensor("one", &[1], TensorType::F32, vec![0; 4]), "tensor one", "twice");
}

#[test]
fn alignment_must_be_a_power_of_two() {
    for value in [Value::U32(0), Value::U32(24), Value::U64(1 << 40), Value::Bool(true), Value::I32(-32)] {
        refuses(small().metadata("general.alignment", value), "general.alignment", "power of two");
    }
    let mut writer = Writer::default();
    writer.metadata("general.alignment", Value::U32(32)).tensor("a", &[1], TensorType::F32, vec![0; 4]);
    assert_eq!(read(&bytes(&writer), Arrays::Keep).unwrap().alignment, 32);
}

#[test]
fn impossible_shapes_are_refused() {
    let with = |shape: &[u64], kind| {
        let mut writer = Writer::default();
        writer.tensor("t", shape, kind, vec![0; 64]);
        writer
    };
    refuses(&with(&[4, 0], TensorType::F32), "tensor t", "is 0");
    refuses(&with(&[1 << 32, 1 << 32], TensorType::F32), "tensor t", "overflows");
    refuses(&with(&[1 << 62], TensorType::F32), "tensor t", "overflows");
    assert!(unknown(&bytes(&with(&[1; 5], TensorType::F32))).1.contains("5 dimensions"));
    refuses(&with(&[33], TensorType::Q4_0), "tensor t", "whole number of Q4_0 blocks");
    let error = error_of(&bytes(&with(&[1 << 20], TensorType::F32)));
    assert!(matches!(error, GgufError::Truncated { .. }), "{error:?}");
}

/// Overwrites the offset of the last tensor, which is the last thing in the header.
fn with_last_offset(offset: u64) -> Vec<u8> {
    let mut file = bytes(&small());
    let end = file.windows(3).position(|window| window == b"two").unwrap() + 3 + 4 + 8 + 4;
    file[end..end + 8].copy_from_slice(&offset.to_le_bytes());
    file
}

#[test]
fn offsets_outside_the_data_are_refused() {
    assert!(refusal(&with_last_offset(95)).1.contains("multiple of 32"));
    assert!(refusal(&with_last_offset(64)).1.contains("inside another tensor"));
    assert!(refusal(&with_last_offset(!31)).1.contains("longer than files"));
    let error = error_of(&with_last_offset(128));
    assert!(matches!(error, GgufError::Truncated { .. }), "{error:?}");
}

#[test]
fn names_from_a_file_are_escaped_and_shortened() {
    let mut writer = Writer::default();
    writer.tensor(format!("\u{1b}[2J\n{}", "x".repeat(500)), &[0], TensorType::F32, Vec::new());
    let (field, _) = refusal(&bytes(&writer));
    assert!(
        field.starts_with(r"tensor \u{1b}[2J\nxxx") && field.ends_with('…') && field.len() < 120,
        "{field}"
    );
}

#[test]
fn a_failure_names_the_file_and_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    fs::write(&path, b"GGML").unwrap();
    let failure = Header::read(&path, Arrays::Keep).unwrap_err().into_failure(&path);
    assert_eq!(failure.code, Code::ModelCorrupt);
    assert!(failure.message.contains("broken.gguf") && failure.message.contains("magic"), "{failure}");
    assert!(failure.hint.is_some());

    let folder_itself = Header::read(folder.path(), Arrays::Keep).unwrap_err();
    assert!(folder_itself.to_string().contains("not a regular file"));
    let missing = folder.path().join("missing.gguf");
    assert_eq!(Header::read(&missing, Arrays::Keep).unwrap_err().into_failure(&missing).code, Code::Io);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_flipped_bytes_make_the_reader_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = bytes(&small());
        for (at, byte) in flips {
            *at.get_mut(&mut file) = byte;
        }
        for arrays in [Arrays::Keep, Arrays::Skip] {
            if let Ok(header) = read(&file, arrays) {
                for tensor in &header.tensors {
                    prop_assert!(header.data_offset + tensor.offset + tensor.bytes <= file.len() as u64);
                }
            }
        }
    }

    #[test]
    fn no_bytes_at_all_make_the_reader_panic(mut file in prop::collection::vec(any::<u8>(), 24..512)) {
        file[..8].copy_from_slice(b"GGUF\x03\0\0\0");
        let _ = read(&file, Arrays::Keep);
        let _ = read(&file, Arrays::Skip);
    }
}
