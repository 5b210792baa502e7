//! Files of `torch.save`, in both of its formats, and what may be wrong with them.
//!
//! `golden/zip.pt` and `golden/legacy.pt` were written by torch 2.11, the second with `_use_new_zipfile_serialization=False`, of one
//! document: a state dict with every element type, views that share a storage, a view that repeats one number, an empty tensor
//! and a parameter; the state of `torch.optim.Adam` after one step; an epoch.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    io::{Cursor, Write},
};

use morph_checkpoint::{
    Dtype, TensorData, Tensors,
    pt::{self, Item},
    weights::{self, Document},
};
use proptest::prelude::*;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

const ZIP: &[u8] = include_bytes!("golden/zip.pt");
const LEGACY: &[u8] = include_bytes!("golden/legacy.pt");

fn f32s(tensor: &TensorData) -> Vec<f32> {
    assert_eq!(tensor.dtype, Dtype::F32);
    tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn both_of_torchs_formats_are_read_with_every_type_and_stride() {
    for (file, name) in [(ZIP, "zip.pt"), (LEGACY, "legacy.pt")] {
        let Document { tensors, order, numbers } = weights::read_document(file, name).unwrap();
        let get = |name: &str| &tensors[&format!("model_weights.{name}")];
        assert_eq!(get("transposed").shape, [2, 4]);
        assert_eq!(f32s(get("transposed")), [1.0, 7.0, 13.0, 19.0, 2.0, 8.0, 14.0, 20.0], "{name}");
        assert_eq!(f32s(get("shared")), [20.0, 21.0, 22.0, 23.0]);
        assert_eq!(f32s(get("expanded")), [9.0; 6]);
        assert_eq!((get("empty").shape.clone(), get("empty").bytes.len()), (vec![0, 3], 0));
        assert_eq!(f32s(get("parameter")), [4.0]);
        for (key, dtype, bytes) in [
            ("bf16", Dtype::BF16, vec![0xc0, 0x3f, 0x00, 0xc0]),
            ("half", Dtype::F16, vec![0x00, 0x34, 0x00, 0x42]),
            ("double", Dtype::F64, 1e-300f64.to_le_bytes().to_vec()),
            ("long", Dtype::I64, 7i64.to_le_bytes().to_vec()),
            ("int", Dtype::I32, (-5i32).to_le_bytes().to_vec()),
            ("short", Dtype::I16, (-6i16).to_le_bytes().to_vec()),
            ("char", Dtype::I8, (-7i8).to_le_bytes().to_vec()),
            ("byte", Dtype::U8, vec![250]),
            ("bool", Dtype::Bool, vec![1, 0]),
        ] {
            assert_eq!((get(key).dtype, &get(key).bytes), (dtype, &bytes), "{name}: {key}");
        }
        assert_eq!(get("long").shape, [0u64; 0]);
        assert_eq!(order[..3], ["model_weights.transposed", "model_weights.shared", "model_weights.bf16"]);
        assert_eq!(numbers["epoch"], 11.0);
        assert_eq!(numbers["optimizer_weights.param_groups.0.lr"], 5e-4);
        assert_eq!(numbers["optimizer_weights.param_groups.0.betas.1"], 0.999);
        assert_eq!(numbers["optimizer_weights.param_groups.0.params.1"], 1.0);
        assert_eq!(f32s(&tensors["optimizer_weights.state.0.step"]), [1.0]);
        assert_eq!(
            tensors.keys().filter(|k| k.starts_with("optimizer_weights.state.1")).count(),
            0,
            "it had no gradient"
        );
        assert_eq!(weights::read(file, name).unwrap(), tensors);
    }
}

#[test]
fn half_floats_in_safetensors_are_read() {
    let tensors = Tensors::from([
        ("a".to_owned(), TensorData::new(Dtype::F16, vec![2], vec![0, 0x3c, 0, 0x40]).unwrap()),
        ("b".to_owned(), TensorData::new(Dtype::BF16, vec![1, 1], vec![0x80, 0x3f]).unwrap()),
        ("c".to_owned(), TensorData::new(Dtype::Bool, vec![], vec![1]).unwrap()),
    ]);
    assert_eq!(weights::read(&weights::to_safetensors(&tensors).unwrap(), "x").unwrap(), tensors);
    let facts = BTreeMap::from([("method".to_owned(), "ae-s".to_owned()), ("run".to_owned(), "\"q\"\n".to_owned())]);
    let file = weights::to_safetensors_with(&tensors, &facts).unwrap();
    assert_eq!(weights::read(&file, "x").unwrap(), tensors);
    assert_eq!(file, weights::to_safetensors_with(&tensors, &facts).unwrap(), "the same bytes again");
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    assert_eq!(header % 8, 0, "tensors are aligned");
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
    assert_eq!(header["__metadata__"]["run"], "\"q\"\n");
    let none = weights::to_safetensors_with(&Tensors::new(), &facts).unwrap();
    assert!(weights::read(&none, "x").unwrap().is_empty());
}

#[test]
fn the_first_byte_of_a_safetensors_file_is_its_headers_length_and_nothing_else() {
    let mut first = std::collections::BTreeSet::new();
    for letters in 1..260 {
        let name = "n".repeat(letters);
        let tensor = TensorData::new(Dtype::F32, vec![1], 1f32.to_le_bytes().to_vec()).unwrap();
        let file = weights::to_safetensors(&Tensors::from([(name.clone(), tensor)])).unwrap();
        first.insert(file[0]);
        assert_eq!(f32s(&weights::read(&file, "w").unwrap()[&name]), [1.0], "{:#x}", file[0]);
    }
    assert!(first.contains(&0x80), "as a pickle begins: {first:x?}");
}

#[test]
fn what_is_written_is_read() {
    let tensors = weights::read(ZIP, "zip.pt").unwrap();
    let state = || Item::State(tensors.iter().map(|(name, t)| (name.clone(), t)).collect());
    let item = Item::Dict(vec![
        ("model_weights".into(), state()),
        ("epoch".into(), Item::Int(70_000)),
        ("large".into(), Item::Int(-(1 << 40))),
        (Item::Int(3), Item::List(vec![Item::Float(0.1), Item::Bool(true), Item::None])),
        ("pair".into(), Item::Tuple(vec![Item::Int(255), Item::Int(-1), "text".into()])),
    ]);
    let file = pt::write(&item).unwrap();
    assert_eq!(file, pt::write(&item).unwrap(), "the same bytes again");
    let read = weights::read_document(&file, "x").unwrap();
    for (name, tensor) in &tensors {
        assert_eq!(&read.tensors[&format!("model_weights.{name}")], tensor, "{name}");
    }
    let numbers = [("epoch", 70_000.0), ("large", -(2f64.powi(40))), ("3.0", 0.1), ("pair.0", 255.0), ("pair.1", -1.0)];
    assert_eq!(read.numbers, numbers.map(|(k, v)| (k.to_owned(), v)).into());
}

/// A file of torch's zip format with this pickle and one storage.
fn file(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", storage)] {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn refused(pickle: &[u8]) -> String {
    weights::read(&file(pickle, &[0; 16]), "f.pt").unwrap_err().to_string()
}

/// A tensor `t` of four floats, offset, shape and stride as given.
fn tensor(geometry: &[u8]) -> Vec<u8> {
    let head =
        b"\x80\x02}U\x01tctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ";
    [&head[..], geometry, b"\x89NtRs."].concat()
}

#[test]
fn a_text_of_python_2_is_a_text() {
    let good = file(&tensor(b"K\x01K\x02\x85K\x02\x85"), &[1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    assert_eq!(f32s(&weights::read(&good, "f.pt").unwrap()["t"]), [2.0, 4.0]);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (geometry, wanted) in [
        (&b"K\x00K\x05\x85K\x01\x85"[..], "f.pt: cannot read weights: t: it reaches element 4 of a storage that has 4"),
        (b"K\x04K\x01\x85K\x01\x85", "element 4"),
        (b"K\x00K\x02\x85J\xff\xff\xff\xff\x85", "negative"),
        (b"J\xff\xff\xff\xffK\x02\x85K\x01\x85", "begins before"),
        (b"K\x00K\x02\x85)", "more sizes than strides"),
        (b"K\x00J\x00\x00\x00\x40J\x00\x00\x00\x40J\x00\x00\x00\x40\x87)", "more sizes"),
        (b"K\x00J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87K\x00K\x00K\x00\x87", "out of all bounds"),
        (b"K\x00J\xff\xff\xff\x7f\x85K\x00\x85", "far larger than the file"),
    ] {
        let said = refused(&tensor(geometry));
        assert!(said.contains(wanted), "{said}");
    }
    for (pickle, wanted) in [
        (&b"\x80\x02cos\nsystem\nU\x02ls\x85R."[..], "wants to call os.system"),
        (b"\x80\x02cmodels\nNet\n)\x81.", "save its state_dict()"),
        (b"\x80\x02}q\x00h\x07.", "recalls what it never had (opcode 0x68 at byte 5"),
        (b"\x80\x02}", "ends too early"),
        (b"\x80\x02U\xffab", "ends too early"),
        (b"\x80\x02X\xff\xff\xff\xffab.", "ends too early"),
        (b"\x80\x02\xff.", "opcode 0xff at byte 2"),
        (b"\x80\x02R", "takes more than it put"),
        (b"\x80\x02u", "lacks a mark"),
    ] {
        let said = refused(pickle);
        assert!(said.contains(wanted), "{said}");
    }
    let cut = weights::read(&LEGACY[..LEGACY.len() - 3], "old.pth").unwrap_err().to_string();
    assert!(cut.contains("old.pth") && cut.contains("cut off"), "{cut}");
    let cut = weights::read(&LEGACY[..400], "old.pth").unwrap_err().to_string();
    assert!(cut.contains("the state dict: the pickle ends too early"), "{cut}");
    let mut damaged = ZIP.to_vec();
    // The first tensor's memory lies behind the pickle: its first byte is 0.
    let at = damaged.windows(8).position(|w| w == [0, 0, 0, 0, 0, 0, 0x80, 0x3f]).unwrap();
    damaged[at + 7] = 0x3e;
    let said = weights::read(&damaged, "f.pt").unwrap_err().to_string();
    assert!(said.contains("damaged"), "{said}");
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(weights::read(&tar, "f.pt").unwrap_err().to_string().contains("tar file"));
}

/// Files of a few megabytes that would need terabytes, hours or a bottomless stack if they were believed.
#[test]
fn bombs_go_off_at_once() {
    let dict = b"\x80\x02";
    let nested = [&dict[..], b")", &b"\x85".repeat(1 << 20), b"."].concat();
    assert!(weights::read(&file(&nested, &[]), "f.pt").unwrap_err().to_string().contains("nested too deep"));
    // A dictionary that holds itself twice: 2^64 paths.
    let own = [&dict[..], b"}q\x00U\x01ah\x00sU\x01bh\x00s."].concat();
    assert!(refused(&own).contains("nested too deep"));
    // One long name, in a thousand places.
    let name = vec![b'n'; 1 << 20];
    let mut long = [&dict[..], b"}X", &(name.len() as u32).to_le_bytes(), &name, b"q\x010"].concat();
    for level in 0..40u8 {
        long.extend([b'}', b'q', 2 + level, b'0']);
    }
    long.extend(b"h\x02");
    for level in 0..39u8 {
        // Each level has two entries: the long name, and a short one, to the next level.
        for key in [&b"h\x01"[..], b"U\x01s"] {
            long.extend(key);
            long.extend([b'h', 3 + level, b's']);
        }
        long.extend([b'0', b'h', 3 + level]);
    }
    long.extend(b"0h\x02.");
    assert!(refused(&long).contains("nested too deep, or too much"));
    // A tuple of a million, shape of a thousand tensors.
    let mut wide = [&dict[..], b"(", &b"K\x01".repeat(1 << 20), b"tq\x05"].concat();
    wide.extend(
        b"0}U\x01tctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ",
    );
    wide.extend(b"K\x00h\x05h\x05\x89NtRs.");
    assert!(refused(&wide).contains("dimensions"));
    let many = [&dict[..], &b"(".repeat((1 << 22) + 1)].concat();
    assert!(refused(&many).contains("opcodes"));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(legacy: bool, at in 0usize..6000, value: u8, cut in 0usize..3000) {
        let mut bytes = if legacy { LEGACY } else { ZIP }.to_vec();
        let at = at % bytes.len();
        bytes[at] = value;
        drop(weights::read(&bytes, "damaged"));
        bytes.truncate(bytes.len().saturating_sub(cut));
        drop(weights::read(&bytes, "damaged"));
    }

    #[test]
    fn no_pickle_panics(mut code in proptest::collection::vec(any::<u8>(), 0..200)) {
        code.splice(0..0, *b"\x80\x02");
        drop(weights::read(&file(&code, &[0; 16]), "random"));
    }
}
