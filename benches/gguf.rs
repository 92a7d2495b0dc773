//! A model file of a wanted size.

use rbee_hive::models::gguf::{TensorType, Value, Writer};

/// A valid GGUF file of about `size` bytes, which nothing can compress.
pub(crate) fn of_size(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut data = Vec::with_capacity(size);
    while data.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Value::String("llama".to_owned()));
    writer.tensor("output.weight", &[data.len() as u64 / 4], TensorType::F32, data);
    let mut file = Vec::new();
    writer.write(&mut file).expect("a file");
    file
}
