//! The types of tensors and of files.
//!
//! Numbers and block sizes are ggml's: `enum ggml_type` and `type_traits` in `ggml.h`/`ggml.c`,
//! `enum llama_ftype` in `llama.h`.

/// Declares [`TensorType`]: variant, name, number in the file, elements and bytes per block.
macro_rules! tensor_types {
    ($($variant:ident = $name:literal, $id:literal, $elements:literal, $bytes:literal;)+) => {
        /// The type of a tensor's elements: a ggml type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the variants are ggml's names")]
        pub enum TensorType {
            $($variant,)+
            /// The number of a type that is not in the table.
            Other(u32),
        }

        impl TensorType {
            /// The type with that number in the file.
            #[must_use]
            pub const fn from_id(id: u32) -> Self {
                match id { $($id => Self::$variant,)+ _ => Self::Other(id) }
            }

            /// The number in the file.
            #[must_use]
            pub const fn id(self) -> u32 {
                match self { $(Self::$variant => $id,)+ Self::Other(id) => id }
            }

            /// ggml's name: `Q4_K`. `None` for a type that is not in the table.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self { $(Self::$variant => Some($name),)+ Self::Other(_) => None }
            }

            /// Elements that are stored together; a row is a whole number of blocks. 1 for a type that is
            /// not in the table.
            #[must_use]
            pub const fn block_elements(self) -> u64 {
                match self { $(Self::$variant => $elements,)+ Self::Other(_) => 1 }
            }

            /// Size of a block in bytes. 0 for a type that is not in the table.
            #[must_use]
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes,)+ Self::Other(_) => 0 }
            }
        }
    };
}

tensor_types! {
    F32 = "F32", 0, 1, 4;
    F16 = "F16", 1, 1, 2;
    Q4_0 = "Q4_0", 2, 32, 18;
    Q4_1 = "Q4_1", 3, 32, 20;
    Q5_0 = "Q5_0", 6, 32, 22;
    Q5_1 = "Q5_1", 7, 32, 24;
    Q8_0 = "Q8_0", 8, 32, 34;
    Q8_1 = "Q8_1", 9, 32, 36;
    Q2K = "Q2_K", 10, 256, 84;
    Q3K = "Q3_K", 11, 256, 110;
    Q4K = "Q4_K", 12, 256, 144;
    Q5K = "Q5_K", 13, 256, 176;
    Q6K = "Q6_K", 14, 256, 210;
    Q8K = "Q8_K", 15, 256, 292;
    Iq2Xxs = "IQ2_XXS", 16, 256, 66;
    Iq2Xs = "IQ2_XS", 17, 256, 74;
    Iq3Xxs = "IQ3_XXS", 18, 256, 98;
    Iq1S = "IQ1_S", 19, 256, 50;
    Iq4Nl = "IQ4_NL", 20, 32, 18;
    Iq3S = "IQ3_S", 21, 256, 110;
    Iq2S = "IQ2_S", 22, 256, 82;
    Iq4Xs = "IQ4_XS", 23, 256, 136;
    I8 = "I8", 24, 1, 1;
    I16 = "I16", 25, 1, 2;
    I32 = "I32", 26, 1, 4;
    I64 = "I64", 27, 1, 8;
    F64 = "F64", 28, 1, 8;
    Iq1M = "IQ1_M", 29, 256, 56;
    Bf16 = "BF16", 30, 1, 2;
    Tq1_0 = "TQ1_0", 34, 256, 54;
    Tq2_0 = "TQ2_0", 35, 256, 66;
    Mxfp4 = "MXFP4", 39, 32, 17;
    Nvfp4 = "NVFP4", 40, 64, 36;
    Q1_0 = "Q1_0", 41, 128, 18;
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "number {}", self.id()),
        }
    }
}

/// llama.cpp's name of a `general.file_type`. `None` where it is unknown.
pub(crate) fn file_type_name(file_type: u64) -> Option<&'static str> {
    /// The flag that llama.cpp sets where it guessed the type from the tensors.
    const GUESSED: u64 = 1024;
    Some(match file_type & !GUESSED {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        _ => return None,
    })
}
