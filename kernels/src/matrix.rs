//! Matrices of weights.

use std::ops::Range;
use std::sync::OnceLock;

use half::f16;
use rayon::prelude::*;

use crate::activations::Activations;
use crate::block::{Type, WIDTH};
use crate::packed::{Chunk, Floats, Form, Lanes, ROWS, Wide};
use crate::processor::Processor;

/// Rows of activations that a thread takes at once, where there are many.
const SHARE: usize = 32;
/// Fewest bytes of weights that are worth another thread.
const MIN_BYTES: usize = 64 << 10;

/// A matrix of weights, of `rows` x `columns`.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Codes { form: Form, chunks: Vec<Chunk>, lanes: Vec<Lanes> },
    F16(Vec<Lanes>),
    Bf16(Vec<Lanes>),
    F32(Vec<Wide>),
}

/// Rows of activations that matrices are multiplied with.
#[derive(Debug)]
pub struct Input<'a> {
    x: &'a [f32],
    columns: usize,
    /// In 8 bits, once a matrix of codes has asked.
    rounded: OnceLock<Activations>,
}

impl<'a> Input<'a> {
    /// Rows of that many columns.
    #[must_use]
    pub fn new(x: &'a [f32], columns: usize) -> Self {
        assert!(columns > 0 && x.len().is_multiple_of(columns), "{} elements in rows of {columns}", x.len());
        Self { x, columns, rounded: OnceLock::new() }
    }

    fn rows(&self) -> usize {
        self.x.len() / self.columns
    }

    fn rounded(&self) -> &Activations {
        self.rounded.get_or_init(|| Activations::of(self.x, self.columns))
    }
}

impl Type {
    /// Bytes of a matrix of this type in memory.
    #[must_use]
    pub const fn bytes(self, rows: usize, columns: usize) -> usize {
        let strips = rows.div_ceil(ROWS);
        let of_a_column = match self {
            Self::F32 => size_of::<Wide>(),
            _ => size_of::<Lanes>(),
        };
        match Form::of(self) {
            None => strips * columns * of_a_column,
            Some(form) => {
                let block = form.chunks() * size_of::<Chunk>() + form.lanes() * size_of::<Lanes>();
                strips * (columns / WIDTH) * block
            }
        }
    }
}

impl Matrix {
    /// The number of rows, which is that of a product's columns.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes a row as F32 to `out`, which has as many elements as the matrix has columns.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (strip, lane) = (row / ROWS, row % ROWS);
        let columns = strip * self.columns..(strip + 1) * self.columns;
        match &self.data {
            Data::Codes { form, chunks, lanes } => {
                let blocks = blocks_of(*form, chunks, lanes, strip, self.columns / WIDTH);
                for ((chunks, lanes), out) in blocks.zip(out.as_chunks_mut::<WIDTH>().0) {
                    *out = form.read(chunks, lanes, lane);
                }
            }
            Data::F16(lanes) => {
                fill(out, &lanes[columns], |lanes| f16::from_bits(lanes.0[lane]).to_f32());
            }
            Data::Bf16(lanes) => {
                fill(out, &lanes[columns], |lanes| f32::from_bits(u32::from(lanes.0[lane]) << 16));
            }
            Data::F32(lanes) => fill(out, &lanes[columns], |lanes| lanes.0[lane]),
        }
    }

    /// Rows of activations times the matrix transposed: for each of them a row of `rows` elements.
    #[must_use]
    pub fn product(&self, input: &Input<'_>) -> Vec<f32> {
        let [product] = Self::products([self], input);
        product
    }

    /// The products of several matrices with the same activations, which is quicker than one after the other.
    #[must_use]
    pub fn products<const N: usize>(matrices: [&Self; N], input: &Input<'_>) -> [Vec<f32>; N] {
        Self::products_on(Processor::this(), matrices, input)
    }

    /// As [`products`](Self::products), with the instructions of that kind of processor: to compare kinds.
    #[must_use]
    pub fn products_on<const N: usize>(
        processor: Processor,
        matrices: [&Self; N],
        input: &Input<'_>,
    ) -> [Vec<f32>; N] {
        for matrix in matrices {
            assert_eq!(input.columns, matrix.columns, "the widths of the activations and of the matrix");
            if matches!(matrix.data, Data::Codes { .. }) {
                input.rounded();
            }
        }
        match input.rows() >= SHARE.min(8 * rayon::current_num_threads()) {
            true => matrices.map(|matrix| matrix.by_activations(processor, input)),
            false => Self::by_strips(processor, matrices, input),
        }
    }

    /// A product for which each thread takes some rows of activations.
    fn by_activations(&self, processor: Processor, input: &Input<'_>) -> Vec<f32> {
        let mut out = vec![0.0; input.rows() * self.rows];
        let share = input.rows().div_ceil(rayon::current_num_threads()).next_multiple_of(8).min(SHARE);
        out.par_chunks_mut(share * self.rows).enumerate().for_each(|(part, out)| {
            let mut products = vec![[0.0; ROWS]; out.len() / self.rows];
            for strip in 0..self.strips() {
                self.strip(processor, strip, input, part * share, &mut products);
                for (out, products) in out.chunks_exact_mut(self.rows).zip(&products) {
                    let out = &mut out[strip * ROWS..self.rows.min((strip + 1) * ROWS)];
                    out.copy_from_slice(&products[..out.len()]);
                }
            }
        });
        out
    }

    /// Products for which each thread takes some strips of all matrices.
    fn by_strips<const N: usize>(
        processor: Processor,
        matrices: [&Self; N],
        input: &Input<'_>,
    ) -> [Vec<f32>; N] {
        let count = input.rows();
        let strips: usize = matrices.iter().map(|matrix| matrix.strips()).sum();
        let bytes: usize = matrices.iter().map(|matrix| matrix.bytes()).sum();
        let mut products = vec![[0.0; ROWS]; strips * count];
        let least = MIN_BYTES / (bytes / strips.max(1)).max(1);
        let share = strips.div_ceil(rayon::current_num_threads()).max(least).max(1);
        let work = |(part, products): (usize, &mut [[f32; ROWS]])| {
            for (strip, products) in (part * share..).zip(products.chunks_exact_mut(count)) {
                let mut strip = strip;
                for matrix in matrices {
                    if strip < matrix.strips() {
                        matrix.strip(processor, strip, input, 0, products);
                        break;
                    }
                    strip -= matrix.strips();
                }
            }
        };
        match share < strips {
            true => products.par_chunks_mut(share * count).enumerate().for_each(work),
            false => work((0, &mut products)),
        }
        let mut left = &products[..];
        matrices.map(|matrix| {
            let (own, others) = left.split_at(matrix.strips() * count);
            left = others;
            let mut out = vec![0.0; count * matrix.rows];
            for (t, out) in out.chunks_exact_mut(matrix.rows).enumerate() {
                for (strip, out) in out.chunks_mut(ROWS).enumerate() {
                    out.copy_from_slice(&own[strip * count + t][..out.len()]);
                }
            }
            out
        })
    }

    fn strips(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// The products of a strip with the rows of activations from `first` on.
    fn strip(
        &self,
        processor: Processor,
        strip: usize,
        input: &Input<'_>,
        first: usize,
        out: &mut [[f32; ROWS]],
    ) {
        let columns = strip * self.columns..(strip + 1) * self.columns;
        let floats = match &self.data {
            Data::Codes { form, chunks, lanes } => {
                let blocks = strip_of(self.columns / WIDTH, strip);
                let (chunks, lanes) =
                    (&chunks[scaled(&blocks, form.chunks())], &lanes[scaled(&blocks, form.lanes())]);
                return processor.codes(*form, chunks, lanes, input.rounded().rows(first), out);
            }
            Data::F16(lanes) => Floats::F16(&lanes[columns]),
            Data::Bf16(lanes) => Floats::Bf16(&lanes[columns]),
            Data::F32(lanes) => Floats::F32(&lanes[columns]),
        };
        processor.floats(floats, &input.x[first * input.columns..], input.columns, out);
    }

    /// Its bytes in memory.
    fn bytes(&self) -> usize {
        match &self.data {
            Data::Codes { chunks, lanes, .. } => size_of_val(&chunks[..]) + size_of_val(&lanes[..]),
            Data::F16(lanes) | Data::Bf16(lanes) => size_of_val(&lanes[..]),
            Data::F32(lanes) => size_of_val(&lanes[..]),
        }
    }
}

/// The blocks of a strip.
fn strip_of(blocks: usize, strip: usize) -> Range<usize> {
    strip * blocks..(strip + 1) * blocks
}

fn scaled(range: &Range<usize>, factor: usize) -> Range<usize> {
    range.start * factor..range.end * factor
}

fn blocks_of<'a>(
    form: Form,
    chunks: &'a [Chunk],
    lanes: &'a [Lanes],
    strip: usize,
    blocks: usize,
) -> impl Iterator<Item = (&'a [Chunk], &'a [Lanes])> {
    let blocks = strip_of(blocks, strip);
    chunks[scaled(&blocks, form.chunks())]
        .chunks_exact(form.chunks())
        .zip(lanes[scaled(&blocks, form.lanes())].chunks_exact(form.lanes()))
}

fn fill<L>(out: &mut [f32], lanes: &[L], read: impl Fn(&L) -> f32) {
    for (out, lanes) in out.iter_mut().zip(lanes) {
        *out = read(lanes);
    }
}

/// Makes a matrix of the rows of a file, which arrive in parts.
#[derive(Debug)]
pub struct Builder {
    kind: Type,
    filled: usize,
    matrix: Matrix,
}

impl Builder {
    /// For a matrix of that shape. None where no row of that length can be stored in the type.
    #[must_use]
    pub fn new(kind: Type, rows: usize, columns: usize) -> Option<Self> {
        if columns == 0 || !columns.is_multiple_of(kind.layout().0) {
            return None;
        }
        let (strips, blocks) = (rows.div_ceil(ROWS), columns / WIDTH);
        let lanes = |count| vec![Lanes([0; ROWS]); strips * count];
        let data = match (kind, Form::of(kind)) {
            (_, Some(form)) => Data::Codes {
                form,
                chunks: vec![Chunk([0; 64]); strips * blocks * form.chunks()],
                lanes: lanes(blocks * form.lanes()),
            },
            (Type::F16, _) => Data::F16(lanes(columns)),
            (Type::Bf16, _) => Data::Bf16(lanes(columns)),
            _ => Data::F32(vec![Wide([0.0; ROWS]); strips * columns]),
        };
        Some(Self { kind, filled: 0, matrix: Matrix { rows, columns, data } })
    }

    /// Bytes of 16 rows in the file. Every part but the last has a multiple of them.
    #[must_use]
    pub fn unit(&self) -> usize {
        ROWS * self.kind.row_bytes(self.matrix.columns)
    }

    /// Adds the next rows, as they are in the file.
    pub fn push(&mut self, data: &[u8]) {
        let (kind, columns) = (self.kind, self.matrix.columns);
        let row_bytes = kind.row_bytes(columns);
        let rows = data.len() / row_bytes;
        assert!(
            self.filled.is_multiple_of(ROWS) && self.filled + rows <= self.matrix.rows,
            "parts are whole strips, and no more rows than the matrix has"
        );
        let strips = self.filled / ROWS..(self.filled + rows).div_ceil(ROWS);
        self.filled += rows;
        let data = data.par_chunks(ROWS * row_bytes);
        match &mut self.matrix.data {
            Data::Codes { form, chunks, lanes } => {
                let blocks = columns / WIDTH;
                let (of_chunks, of_lanes) = (blocks * form.chunks(), blocks * form.lanes());
                let chunks = chunks[scaled(&strips, of_chunks)].par_chunks_exact_mut(of_chunks);
                let lanes = lanes[scaled(&strips, of_lanes)].par_chunks_exact_mut(of_lanes);
                data.zip(chunks.zip(lanes)).for_each(|(rows, (chunks, lanes))| {
                    for (row, data) in rows.chunks_exact(row_bytes).enumerate() {
                        let into =
                            chunks.chunks_exact_mut(form.chunks()).zip(lanes.chunks_exact_mut(form.lanes()));
                        for (index, (chunks, lanes)) in into.enumerate() {
                            form.write(chunks, lanes, row, &kind.block(data, index));
                        }
                    }
                });
            }
            Data::F16(lanes) | Data::Bf16(lanes) => {
                let lanes = lanes[scaled(&strips, columns)].par_chunks_exact_mut(columns);
                data.zip(lanes).for_each(|(rows, lanes)| {
                    for (row, data) in rows.chunks_exact(row_bytes).enumerate() {
                        for (lanes, bytes) in lanes.iter_mut().zip(data.as_chunks::<2>().0) {
                            lanes.0[row] = u16::from_le_bytes(*bytes);
                        }
                    }
                });
            }
            Data::F32(lanes) => {
                let lanes = lanes[scaled(&strips, columns)].par_chunks_exact_mut(columns);
                data.zip(lanes).for_each(|(rows, lanes)| {
                    for (row, data) in rows.chunks_exact(row_bytes).enumerate() {
                        for (lanes, bytes) in lanes.iter_mut().zip(data.as_chunks::<4>().0) {
                            lanes.0[row] = f32::from_le_bytes(*bytes);
                        }
                    }
                });
            }
        }
    }

    /// The matrix, of which every row has been added.
    #[must_use]
    pub fn finish(self) -> Matrix {
        assert_eq!(self.filled, self.matrix.rows, "the rows that have been added");
        self.matrix
    }
}

#[cfg(test)]
mod tests;
