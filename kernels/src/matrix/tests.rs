//! Compares matrices with candle's reading of the same bytes, and products with exact ones.

use candle_core::Device;
use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use proptest::prelude::*;

use super::*;
use crate::encode::encode;

fn candles(kind: Type) -> Option<GgmlDType> {
    Some(match kind {
        Type::F32 => GgmlDType::F32,
        Type::F16 => GgmlDType::F16,
        Type::Bf16 => GgmlDType::BF16,
        Type::Q4_0 => GgmlDType::Q4_0,
        Type::Q4_1 => GgmlDType::Q4_1,
        Type::Q5_0 => GgmlDType::Q5_0,
        Type::Q5_1 => GgmlDType::Q5_1,
        Type::Q8_0 => GgmlDType::Q8_0,
        Type::Q2K => GgmlDType::Q2K,
        Type::Q3K => GgmlDType::Q3K,
        Type::Q4K => GgmlDType::Q4K,
        Type::Q5K => GgmlDType::Q5K,
        Type::Q6K => GgmlDType::Q6K,
        Type::Iq4Nl | Type::Iq4Xs => return None,
    })
}

fn matrix(kind: Type, rows: usize, columns: usize, data: &[u8]) -> Matrix {
    let mut builder = Builder::new(kind, rows, columns).unwrap();
    for part in data.chunks(3 * builder.unit()) {
        builder.push(part);
    }
    builder.finish()
}

fn decoded(matrix: &Matrix) -> Vec<Vec<f32>> {
    let mut row = vec![0.0; matrix.columns];
    (0..matrix.rows)
        .map(|index| {
            matrix.row(index, &mut row);
            row.clone()
        })
        .collect()
}

#[test]
fn rows_are_what_candle_reads_of_the_same_bytes() {
    let (rows, columns) = (37, 512);
    let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919 % 1013) as f32 / 506.0 - 1.0) * 0.3).collect();
    for kind in Type::ALL {
        let Some(candles) = candles(kind) else { continue };
        let data = encode(kind, &x);
        let exact = qtensor_from_ggml(candles, &data, vec![rows, columns], &Device::Cpu).unwrap();
        let exact: Vec<f32> =
            exact.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (found, exact) in decoded(&matrix(kind, rows, columns, &data)).concat().iter().zip(exact) {
            // The scales of the K types are products, which are rounded to half precision.
            assert!((found - exact).abs() < 1e-3 * exact.abs().max(0.5), "{kind:?}: {found}, {exact}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_are_alike_on_every_processor_and_close_to_exact_ones(
        rows in 1usize..70,
        blocks in 1usize..4,
        count in 1usize..70,
        seed in any::<u32>(),
    ) {
        let columns = 256 * blocks;
        let number = |i: usize| {
            let mixed = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed).wrapping_mul(2_246_822_519);
            (mixed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let weights: Vec<f32> = (0..rows * columns).map(|i| number(i) * 0.2).collect();
        let x: Vec<f32> = (0..count * columns).map(|i| number(i + 99) * 3.0).collect();
        for kind in Type::ALL {
            let matrix = matrix(kind, rows, columns, &encode(kind, &weights));
            let decoded = decoded(&matrix);
            let exact: Vec<f32> = x
                .chunks_exact(columns)
                .flat_map(|x| decoded.iter().map(move |row| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()))
                .collect();
            // Activations of codes are rounded to 8 bits.
            let tolerance = if Form::of(kind).is_some() { 1e-2 } else { 1e-5 };
            let [plain] = Matrix::products_on(Processor::PLAIN, [&matrix], &Input::new(&x, columns));
            prop_assert!(distance(&plain, &exact) < tolerance, "{:?}: {}", kind, distance(&plain, &exact));
            for processor in Processor::all() {
                let input = Input::new(&x, columns);
                for found in Matrix::products_on(processor, [&matrix; 3], &input) {
                    let distance = distance(&found, &plain);
                    prop_assert!(distance < 1e-5, "{:?} {:?}: {}", kind, processor, distance);
                }
            }
        }
    }
}

/// The norm of the difference, relative to that of what is expected.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(expected).max(1e-3)
}
