//! The resize against Pillow's own output, bit for bit.

#![allow(clippy::unwrap_used)]

use morph_data::{
    readers::Grey,
    resize::{pillow_bilinear, torch_bilinear},
};
use safetensors::SafeTensors;

/// The images that the paper's evaluation transform was recorded on (the project's golden vectors).
#[test]
fn the_reference_transform_is_met_bit_for_bit() {
    let bytes = include_bytes!("golden/resize.safetensors");
    let golden = SafeTensors::deserialize(bytes).unwrap();
    for i in 0..7 {
        let (input, wanted) =
            (golden.tensor(&format!("{i}.in_u8")).unwrap(), golden.tensor(&format!("{i}.pil_u8")).unwrap());
        let (height, width) = (input.shape()[0], input.shape()[1]);
        let image = Grey { width, height, pixels: input.data().to_vec() };
        let out = pillow_bilinear(&image, wanted.shape()[1], wanted.shape()[0]);
        let wrong = out.pixels.iter().zip(wanted.data()).filter(|(a, b)| a != b).count();
        assert_eq!(wrong, 0, "case {i}, {width}x{height}: {wrong} of {} pixels differ", wanted.data().len());
        assert_eq!((out.width, out.height), (128, 128));
    }
}

fn input(golden: &SafeTensors<'_>, case: usize) -> Grey {
    let input = golden.tensor(&format!("{case}.in_u8")).unwrap();
    Grey { width: input.shape()[1], height: input.shape()[0], pixels: input.data().to_vec() }
}

/// The largest distance from a recorded tensor of values in 0..1, in grey levels.
fn far(out: &Grey, golden: &SafeTensors<'_>, name: &str) -> f32 {
    let wanted = golden.tensor(name).unwrap();
    let wanted: Vec<f32> = wanted.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(wanted.len(), out.pixels.len());
    out.pixels.iter().zip(&wanted).map(|(a, b)| (f32::from(*a) - b * 255.0).abs()).fold(0.0, f32::max)
}

/// What the reference trains on: torchvision's resize of the tensor, without antialias, as recorded from torch. Shards hold 8 bit.
#[test]
fn the_references_training_resize_is_met_to_half_a_grey_level() {
    let (inputs, golden) =
        (include_bytes!("golden/resize.safetensors"), include_bytes!("golden/resize_train.safetensors"));
    let (inputs, golden) = (SafeTensors::deserialize(inputs).unwrap(), SafeTensors::deserialize(golden).unwrap());
    for i in [1, 2, 6] {
        let image = input(&inputs, i);
        let out = torch_bilinear(&image, 128, 128);
        let far = far(&out, &golden, &format!("{i}.train_f32"));
        assert!(far <= 0.5001, "case {i}: {far} grey levels");
        assert_ne!(out, pillow_bilinear(&image, 128, 128), "it is another one");
    }
}

/// Every recorded case, where they are at hand: the training resize of the torchvision that the paper names (no antialias) and of
/// today's (antialias), which is Pillow's but for rounding between its passes. What is recorded of 16-bit images (`16.*`) has no
/// counterpart: they become 8-bit before they are resized.
#[test]
fn training_resizes_of_every_recorded_case() {
    let root = std::env::var_os("MORPH_GOLDEN").map(std::path::PathBuf::from);
    let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden").into());
    let Ok(bytes) = std::fs::read(root.join("ops/resize.safetensors")) else {
        eprintln!("skipped: the recorded vectors are not here (ops/resize.safetensors); set MORPH_GOLDEN");
        return;
    };
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for i in 0..7 {
        let image = input(&golden, i);
        let plain = far(&torch_bilinear(&image, 128, 128), &golden, &format!("{i}.train_noantialias_f32"));
        assert!(plain <= 0.5001, "case {i}, no antialias: {plain} grey levels");
        let smooth = far(&pillow_bilinear(&image, 128, 128), &golden, &format!("{i}.train_antialias_f32"));
        assert!(smooth < 1.0, "case {i}, antialias: {smooth} grey levels");
    }
}

/// width, height → width, height: FNV-1a of what Pillow 13.0.0 made of [`noise`] (`Image.resize(…, BILINEAR)`), wide and tall,
/// up and down, one side only.
const RECORDED: [(usize, usize, usize, usize, u64); 19] = [
    (1024, 1024, 128, 128, 0x6861_0fcf_bf67_c70d),
    (1024, 1024, 64, 64, 0x8fb5_4d52_a0c5_4c17),
    (256, 256, 32, 32, 0xb7db_8d5f_0784_ca6a),
    (299, 299, 128, 128, 0xda25_0575_4d37_da42),
    (257, 301, 128, 128, 0x5e4b_3a86_349d_573e),
    (2000, 31, 64, 64, 0x3ba5_64a5_d0b1_7714),
    (31, 2000, 64, 64, 0xf16f_ee2a_84f8_7ff5),
    (500, 20, 40, 40, 0x0a1b_11bd_2c1e_fd8b),
    (20, 500, 40, 40, 0x1902_713e_34c6_4404),
    (7, 5, 64, 64, 0xe342_cb79_1a01_0559),
    (5, 7, 64, 64, 0xfb2d_0b74_a9f5_9c24),
    (64, 300, 64, 128, 0x610b_c102_d8d8_bb81),
    (300, 64, 128, 64, 0xe706_488e_90a3_8942),
    (1, 1, 16, 16, 0x12dc_1b1c_fbbc_7825),
    (3, 900, 50, 20, 0x0b8c_5096_267e_20d1),
    (900, 3, 20, 50, 0xc784_507b_4446_4346),
    (129, 128, 128, 128, 0x0571_8bf6_4032_6338),
    (100, 40, 50, 400, 0x4c39_eacc_0b97_42cc),
    (40, 100, 400, 50, 0xe6df_ac2b_6ac8_ae5c),
];

/// A linear congruential generator's upper bytes: the worst that an image can be.
fn noise(width: usize, height: usize) -> Grey {
    let mut z = width as u64 * 1_000_003 + height as u64;
    let mut next = || {
        z = z.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (z >> 56) as u8
    };
    Grey { width, height, pixels: (0..width * height).map(|_| next()).collect() }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn every_shape_is_met_bit_for_bit() {
    let wrong: Vec<_> = RECORDED
        .iter()
        .filter(|(w, h, to_w, to_h, hash)| fnv(&pillow_bilinear(&noise(*w, *h), *to_w, *to_h).pixels) != *hash)
        .map(|(w, h, to_w, to_h, _)| format!("{w}x{h} to {to_w}x{to_h}"))
        .collect();
    assert!(wrong.is_empty(), "not as Pillow has it: {wrong:?}");
}
