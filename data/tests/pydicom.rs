//! Conformance: every grey file in a folder decodes to the stored values that pydicom finds, or is refused by name, and every JPEG to
//! Pillow's grey levels. The folder comes from `pydicom_record.py`, which scripts/test runs; MORPH_DICOM_FILES names it. Without it
//! nothing is compared, and that is said.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use morph_data::readers::{Values, dicom, grey, jpeg};
use morph_spec::dataset::{Levels, Preprocess};

/// Why a file may be refused: what is no single image of at most 16 bits, or is not whole.
const REFUSALS: [&str; 4] = ["frames", "bits allocated are not read", "lossy JPEG of 12 bits", "cut off"];

#[test]
fn the_same_values_as_pydicom() {
    let Some(folder) = std::env::var_os("MORPH_DICOM_FILES").map(PathBuf::from) else {
        eprintln!("left out: MORPH_DICOM_FILES names no folder (scripts/test makes one)");
        return;
    };
    let (mut equal, mut refused, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let fact: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let wanted = fs::read(path.with_extension("i32")).ok();
        let wanted: Option<Vec<i32>> =
            wanted.map(|bytes| bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect());
        match (dicom::image(&fs::read(path.with_extension("dcm")).unwrap()), wanted) {
            (Err(why), _) if REFUSALS.iter().any(|r| why.contains(r)) => refused.push(format!("{name}: {why}")),
            // What pydicom cannot read either is broken.
            (Err(why), None) => refused.push(format!("{name}: {why}")),
            (Err(why), _) => wrong.push(format!("{name}: {why}")),
            (Ok(_), None) => wrong.push(format!("{name}: pydicom says {}", fact["error"])),
            (Ok((image, _)), Some(wanted)) => {
                let kept = |v: u32| v as i32 + image.offset() as i32;
                let found: Vec<i32> = match &image.values {
                    Values::Bytes(v) => v.iter().map(|v| kept((*v).into())).collect(),
                    Values::Words(v) => v.iter().map(|v| kept((*v).into())).collect(),
                    Values::Floats(_) => Vec::new(),
                };
                // How transforms of lossy streams are rounded is the decoder's choice: one level, two of 65,536 in JPEG 2000.
                let most = if fact["lossy"] == true { 1 + i32::from(image.bits == 16) } else { 0 };
                let far = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).max().unwrap_or(0);
                if found.len() == wanted.len() && far <= most {
                    equal.push(name);
                } else {
                    let sizes = (found.len(), wanted.len());
                    wrong.push(format!("{name}: values differ by up to {far} ({sizes:?}, {})", fact["syntax"]));
                }
            }
        }
    }
    refused.sort();
    eprintln!("{} files equal, {} refused:\n{}", equal.len(), refused.len(), refused.join("\n"));
    assert!(wrong.is_empty(), "{} files are neither equal nor refused by name:\n{}", wrong.len(), wrong.join("\n"));
    assert!(equal.len() >= 30, "only {} files were compared: {equal:?}", equal.len());
}

#[test]
fn seen_as_pydicom_shows_them() {
    let Some(folder) = std::env::var_os("MORPH_DICOM_FILES").map(PathBuf::from) else {
        eprintln!("left out: MORPH_DICOM_FILES names no folder (scripts/test makes one)");
        return;
    };
    let preprocess = Preprocess { levels: Levels::FileWindow, ..Preprocess::default() };
    let (mut equal, mut wrong) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "seen") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let fact: serde_json::Value = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
        let wanted = fs::read(&path).unwrap();
        // What is refused is the other test's.
        let Ok((image, _)) = dicom::image(&fs::read(path.with_extension("dcm")).unwrap()) else { continue };
        let shown = grey(&image, &preprocess).unwrap();
        let pixels: Vec<u8> = shown.pixels.iter().map(|v| if image.inverted { 255 - v } else { *v }).collect();
        // A lossy decoder's two values of 65,536 are less than a level, but for what rounding makes of them.
        let most = 1 + u8::from(fact["lossy"] == true);
        let far = pixels.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        let apart = pixels.iter().zip(&wanted).filter(|(a, b)| a != b).count();
        let same = pixels.len() == wanted.len() && far <= most && apart <= pixels.len() / 100;
        if same { &mut equal } else { &mut wrong }.push(format!("{name}: up to {far}, {apart} of {}", pixels.len()));
    }
    wrong.sort();
    eprintln!("{} files are shown alike", equal.len());
    assert!(wrong.is_empty(), "{} files are shown otherwise:\n{}", wrong.len(), wrong.join("\n"));
    assert!(equal.len() >= 24, "only {} files were compared: {equal:?}", equal.len());
}

#[test]
fn jpegs_within_a_level_of_pillow() {
    let Some(folder) = std::env::var_os("MORPH_DICOM_FILES").map(PathBuf::from) else {
        eprintln!("left out: MORPH_DICOM_FILES names no folder (scripts/test makes one)");
        return;
    };
    let (mut compared, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "jpg") {
            continue;
        }
        let wanted = fs::read(path.with_extension("grey")).unwrap();
        let image = jpeg::image(&fs::read(&path).unwrap()).unwrap();
        let Values::Bytes(found) = &image.values else { panic!("{} has no bytes", path.display()) };
        assert_eq!(found.len(), wanted.len(), "{}", path.display());
        let far = found.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        let beyond = found.iter().zip(&wanted).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        compared += 1;
        // Where colour has fewer pixels than grey, how it is spread over them is the decoder's choice: it shows where a channel is cut
        // off at black or white.
        let spread = ["-422-", "-420-"].iter().any(|kind| path.to_string_lossy().contains(kind));
        if far > 1 + u8::from(spread) || beyond > found.len() / 10_000 {
            wrong.push(format!("{}: up to {far}, {beyond} of {} pixels by more than 1", path.display(), found.len()));
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {compared} JPEGs differ by more:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= 96, "only {compared} JPEGs lie there: {} was recorded by an older script", folder.display());
}
