//! Writes phantoms as files in RSNA's real layout: JPEG-compressed DICOM with the headers of the real ones, and both tables; and
//! beside them `truth/`, which no real dataset has ([`crate::truth`]).

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use dicom_core::{DataElement, PrimitiveValue, VR, dicom_value, value::PixelFragmentSequence};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use jpeg_encoder::{ColorType, Encoder};
use morph_spec::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Progress,
    layouts::{
        Root,
        rsna::{CLASSES, IMAGES, LABELS, SIDE},
    },
    phantom::{self, Case, Label},
    readers::png,
    truth::{FOLDER, Kind},
};

/// Phantoms are drawn no larger than this and enlarged from there.
const DRAWN: usize = 256;
/// As the real files seem to be.
const QUALITY: u8 = 90;
/// Written last: what lies here and that it is whole.
const RECIPE: &str = "synth.json";
/// Version of the phantom: counts up when the same seed gives other bytes.
const VERSION: u32 = 1;

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The dataset's root.
    pub root: PathBuf,
    /// Everything follows from it.
    pub seed: u64,
    /// How many show nothing.
    pub healthy: u32,
    /// How many show lung opacity.
    pub opacity: u32,
    /// How many show something else.
    pub other: u32,
    /// Side of the images in pixels; the real ones have 1024. Boxes are in pixels of 1024 whatever it is.
    pub size: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Recipe {
    version: u32,
    seed: u64,
    healthy: u32,
    opacity: u32,
    other: u32,
    size: u32,
    /// Whether `truth/` is there, too; what older builds wrote lacks it.
    #[serde(default)]
    truth: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The dataset's root.
    pub root: PathBuf,
    /// Number of images.
    pub images: u64,
    /// They were there already.
    pub reused: bool,
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::Source { path: path.display().to_string(), why: crate::error::io_text(&e) }
}

/// Writes the dataset, or finds that it is there already.
///
/// # Errors
/// [`Error::Source`] when the folder holds something else, or cannot be written.
pub fn write(options: &Options, progress: &dyn Progress) -> Result<Written, Error> {
    let Options { root, seed, healthy, opacity, other, size } = options;
    let wrong = |why: String| Error::Source { path: root.display().to_string(), why };
    let total = u64::from(*healthy) + u64::from(*opacity) + u64::from(*other);
    if total == 0 || *size < 32 || *size > 4096 {
        return Err(wrong(format!(
            "{total} images of {size} pixels make no dataset; it takes 1 or more of 32 to 4096"
        )));
    }
    let recipe = Recipe {
        version: VERSION,
        seed: *seed,
        healthy: *healthy,
        opacity: *opacity,
        other: *other,
        size: *size,
        truth: true,
    };
    let done = root.join(RECIPE);
    if let Ok(text) = fs::read(&done) {
        let found = serde_json::from_slice::<Recipe>(&text).ok();
        if found.as_ref() == Some(&recipe) {
            return Ok(Written { root: root.clone(), images: total, reused: true });
        }
        if found.is_some_and(|r| r == Recipe { truth: false, ..recipe.clone() }) {
            complete(options, total, progress)?;
            finish(root, &recipe)?;
            return Ok(Written { root: root.clone(), images: total, reused: true });
        }
        return Err(wrong("other phantoms lie there (see its synth.json); choose another folder or remove it".into()));
    }
    let images = root.join(IMAGES);
    let half = format!("{RECIPE}.tmp");
    let mine = |name: &str| [IMAGES, LABELS, CLASSES, FOLDER, &half].contains(&name);
    if let Ok(entries) = fs::read_dir(root) {
        // What an interrupted synth left is done away with; anything else is somebody's data.
        let begun = images.join(BEGUN).exists();
        let mut names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        if let Some(name) = names.find(|n| !begun || !mine(n)) {
            return Err(wrong(format!("the folder is not empty (it holds {name}); choose another")));
        }
        if begun {
            clear(&images)?;
        }
    }
    fs::create_dir_all(&images).map_err(io(&images))?;
    folders(root)?;
    let marker = images.join(BEGUN);
    fs::write(&marker, b"").map_err(io(&marker))?;

    progress.stage("phantoms", total);
    let rows: Vec<Row> = (0..total)
        .into_par_iter()
        .map(|index| {
            let row = Row::new(options, index);
            let path = images.join(format!("{}.dcm", row.id));
            let bytes =
                dicom(&row, *size as usize, *seed, index).map_err(|why| wrong(format!("make {}: {why}", row.id)))?;
            fs::write(&path, bytes).map_err(io(&path))?;
            row.truth(root)?;
            progress.advance(1);
            Ok(Row { case: None, ..row })
        })
        .collect::<Result<_, Error>>()?;

    tables(root, rows)?;
    finish(root, &recipe)?;
    fs::remove_file(&marker).map_err(io(&marker))?;
    Ok(Written { root: root.clone(), images: total, reused: false })
}

/// Writes the recipe, whole or not at all.
fn finish(root: &Path, recipe: &Recipe) -> Result<(), Error> {
    let (done, half) = (root.join(RECIPE), root.join(format!("{RECIPE}.tmp")));
    let bad = |e: serde_json::Error| Error::Source { path: done.display().to_string(), why: e.to_string() };
    let text = serde_json::to_vec_pretty(recipe).map_err(bad)?;
    let mut file = fs::File::create(&half).map_err(io(&done))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io(&done))?;
    fs::rename(&half, &done).map_err(io(&done))
}

/// The folders of the truth.
fn folders(root: &Path) -> Result<(), Error> {
    for kind in Kind::ALL {
        let path = root.join(FOLDER).join(kind.folder());
        fs::create_dir_all(&path).map_err(io(&path))?;
    }
    Ok(())
}

/// Adds the truth to phantoms that an older build wrote.
fn complete(options: &Options, total: u64, progress: &dyn Progress) -> Result<(), Error> {
    folders(&options.root)?;
    progress.stage("truth of the phantoms", total);
    (0..total).into_par_iter().try_for_each(|index| {
        Row::new(options, index).truth(&options.root)?;
        progress.advance(1);
        Ok(())
    })
}

/// Marks a folder that a synth has begun and not finished.
const BEGUN: &str = ".synth-in-progress";

/// Removes the images of an interrupted synth; its marker stays.
fn clear(images: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(images).map_err(io(images))?.flatten().filter(|e| e.file_name() != BEGUN) {
        fs::remove_file(entry.path()).map_err(io(&entry.path()))?;
    }
    Ok(())
}

/// Whether the raw dataset at `root` was written by [`write()`].
pub(crate) fn is_synthetic(root: &Root) -> bool {
    root.is_file(RECIPE)
}

/// One image, as the tables have it.
struct Row {
    id: String,
    label: Label,
    /// In pixels of 1024.
    boxes: Vec<[f32; 4]>,
    /// Dropped once its file is written.
    case: Option<Case>,
}

impl Row {
    fn new(o: &Options, index: u64) -> Self {
        let label = match index {
            i if i < u64::from(o.healthy) => Label::Healthy,
            i if i < u64::from(o.healthy) + u64::from(o.opacity) => Label::Opacity,
            _ => Label::Other,
        };
        let case = phantom::case(o.seed, index, label, DRAWN.min(o.size as usize));
        // RSNA's boxes mark opacities only.
        let boxes = if label == Label::Opacity {
            case.boxes.iter().map(|b| b.map(|v| (v * SIDE).round())).collect()
        } else {
            Vec::new()
        };
        Self { id: id(o.seed, index), label, boxes, case: Some(case) }
    }

    /// Writes what is known of the phantom beside its image, as large as it was drawn: lungs of all, and of those with lesions
    /// where they are and the same person without them.
    fn truth(&self, root: &Path) -> Result<(), Error> {
        let Some(case) = &self.case else { return Ok(()) };
        let grey = |values: &[f32]| values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
        let mut files: Vec<(Kind, Vec<u8>)> = vec![(Kind::Mask, grey(&case.lung))];
        if !case.masks.is_empty() {
            let lesion = |i: usize| if case.masks.iter().any(|m| m[i]) { 255 } else { 0 };
            files.push((Kind::Lesion, (0..case.image.len()).map(lesion).collect()));
            files.push((Kind::Twin, grey(&case.twin)));
        }
        for (kind, pixels) in files {
            let path = root.join(FOLDER).join(kind.key(&self.id));
            let bad = |why: String| Error::Source { path: path.display().to_string(), why };
            let bytes = png::write(case.size, case.size, &pixels).map_err(bad)?;
            fs::write(&path, bytes).map_err(io(&path))?;
        }
        Ok(())
    }

    fn class(&self) -> &'static str {
        match self.label {
            Label::Healthy => "Normal",
            Label::Opacity => "Lung Opacity",
            Label::Other => "No Lung Opacity / Not Normal",
        }
    }
}

/// A UUID (version 4, variant 1) that follows from the seed, as RSNA's patient ids look.
fn id(seed: u64, index: u64) -> String {
    let mut rng = Rng::keyed(seed, "phantom/id", index);
    let (a, b) = (rng.next_u64(), rng.next_u64());
    let (a, b) = ((a & !0xf000) | 0x4000, (b & !(0b11 << 62)) | (0b10 << 62));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

/// Both tables, one row a box in each, sorted by id as Kaggle's are not but diffs like.
fn tables(root: &Path, mut rows: Vec<Row>) -> Result<(), Error> {
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    let mut labels = String::from("patientId,x,y,width,height,Target\n");
    let mut classes = String::from("patientId,class\n");
    for row in &rows {
        for [x, y, w, h] in &row.boxes {
            labels.push_str(&format!("{},{x:.1},{y:.1},{w:.1},{h:.1},1\n", row.id));
        }
        if row.boxes.is_empty() {
            labels.push_str(&format!("{},,,,,0\n", row.id));
        }
        for _ in 0..row.boxes.len().max(1) {
            classes.push_str(&format!("{},{}\n", row.id, row.class()));
        }
    }
    for (name, text) in [(LABELS, labels), (CLASSES, classes)] {
        let path = root.join(name);
        fs::write(&path, text).map_err(io(&path))?;
    }
    Ok(())
}

/// The image as the real files are: Secondary Capture, JPEG baseline, 8 bit, ages without their unit.
fn dicom(row: &Row, size: usize, seed: u64, index: u64) -> Result<Vec<u8>, String> {
    let Some(case) = &row.case else { return Err("it was drawn already".into()) };
    let jpeg = jpeg(&pixels(case, size, seed, index), size)?;
    let text = |tag, vr, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let number = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let uid = |key: &str| {
        let mut rng = Rng::keyed(seed, key, index);
        // 2.25: a UUID as a decimal number (PS3.5 B.2).
        format!("2.25.{}", u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
    };
    let instance = uid("phantom/instance");
    let spacing = [0.143, 0.168, 0.139, 0.171][Rng::keyed(seed, "phantom/spacing", index).below(4) as usize];
    let mut object = InMemDicomObject::from_element_iter([
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100"),
        text(tags::SOP_CLASS_UID, VR::UI, uids::SECONDARY_CAPTURE_IMAGE_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, &instance),
        text(tags::STUDY_DATE, VR::DA, "19010101"),
        text(tags::STUDY_TIME, VR::TM, "000000.00"),
        text(tags::ACCESSION_NUMBER, VR::SH, ""),
        text(tags::MODALITY, VR::CS, "CR"),
        text(tags::CONVERSION_TYPE, VR::CS, "WSD"),
        text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        text(tags::SERIES_DESCRIPTION, VR::LO, &format!("view: {}", case.view)),
        text(tags::PATIENT_NAME, VR::PN, &row.id),
        text(tags::PATIENT_ID, VR::LO, &row.id),
        text(tags::PATIENT_BIRTH_DATE, VR::DA, ""),
        text(tags::PATIENT_SEX, VR::CS, &case.sex.to_string()),
        text(tags::PATIENT_AGE, VR::AS, &case.age.to_string()),
        text(tags::BODY_PART_EXAMINED, VR::CS, "CHEST"),
        text(tags::VIEW_POSITION, VR::CS, case.view),
        text(tags::STUDY_INSTANCE_UID, VR::UI, &uid("phantom/study")),
        text(tags::SERIES_INSTANCE_UID, VR::UI, &uid("phantom/series")),
        text(tags::STUDY_ID, VR::SH, ""),
        text(tags::SERIES_NUMBER, VR::IS, "1"),
        text(tags::INSTANCE_NUMBER, VR::IS, "1"),
        text(tags::PATIENT_ORIENTATION, VR::CS, ""),
        number(tags::SAMPLES_PER_PIXEL, 1),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        number(tags::ROWS, size as u16),
        number(tags::COLUMNS, size as u16),
        DataElement::new(tags::PIXEL_SPACING, VR::DS, dicom_value!(Strs, [format!("{spacing}"), format!("{spacing}")])),
        number(tags::BITS_ALLOCATED, 8),
        number(tags::BITS_STORED, 8),
        number(tags::HIGH_BIT, 7),
        number(tags::PIXEL_REPRESENTATION, 0),
        text(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "01"),
        text(tags::LOSSY_IMAGE_COMPRESSION_METHOD, VR::CS, "ISO_10918_1"),
    ]);
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PixelFragmentSequence::new_fragments(vec![jpeg])));
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::JPEG_BASELINE8_BIT)
        .media_storage_sop_class_uid(uids::SECONDARY_CAPTURE_IMAGE_STORAGE)
        .media_storage_sop_instance_uid(instance);
    let mut bytes = Vec::new();
    object.with_meta(meta).map_err(|e| e.to_string())?.write_all(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// 8-bit grey levels; film grain is added after enlarging, or the noise would be as coarse as the drawing.
fn pixels(case: &Case, size: usize, seed: u64, index: u64) -> Vec<u8> {
    let big = if case.size == size { case.image.clone() } else { phantom::enlarge(&case.image, case.size, size) };
    let mut grain = Rng::keyed(seed, "phantom/grain", index);
    let level = |v: &f32| {
        // The sum of four uniform bytes is normal enough, with sd 147.8 of 1020.
        let r = grain.next_u64();
        let sum: u32 = (0..4).map(|i| (r >> (8 * i)) as u32 & 0xff).sum();
        let noise = (f64::from(sum) - 510.0) / 147.8 * GRAIN;
        ((f64::from(*v) + noise).clamp(0.0, 1.0) * 255.0).round() as u8
    };
    big.iter().map(level).collect()
}

/// Standard deviation of film grain, in grey levels of 0..1.
const GRAIN: f64 = 0.008;

fn jpeg(pixels: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, QUALITY)
        .encode(pixels, size as u16, size as u16, ColorType::Luma)
        .map_err(|e| e.to_string())?;
    if bytes.len() % 2 == 1 {
        // Fragments have even lengths (PS3.5 A.4).
        bytes.push(0);
    }
    Ok(bytes)
}
