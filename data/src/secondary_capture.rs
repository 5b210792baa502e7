//! Writes a picture as DICOM Secondary Capture (PS3.3 A.8.1): new instance and series, filed with the patient and study of the
//! image that it was made from, and marked as of research use only.
//!
//! Contract:
//! 1. The source's UIDs are referenced, never used again: series and instance are new.
//! 2. Nothing about the patient is made up. What the source does not say is empty where the standard wants the field, else absent.
//! 3. The same capture gives the same bytes.

use std::io::Cursor;

use dicom_core::{
    DataElement, PrimitiveValue, Tag, VR,
    value::{DataSetSequence, Value},
};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, InMemDicomObject, OpenFileOptions, file::ReadPreamble};

use crate::{Error, picture::Rgb};

/// What every capture says of itself, in its series' description and in its comments; to be written into the picture, too
/// ([`crate::heatmap::captioned`]), for not every viewer shows those.
pub const RESEARCH_USE_ONLY: &str = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS";

/// Most characters of a `LO` value (PS3.5 6.2).
const LONGEST: usize = 64;
/// Most characters of an `ST` value.
const LONGEST_TEXT: usize = 1024;

/// What is known of the image that a picture was made from. Empty texts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// (0010,0020)
    pub patient_id: String,
    /// (0010,0010)
    pub patient_name: String,
    /// (0010,0030)
    pub patient_birth_date: String,
    /// (0010,0040)
    pub patient_sex: String,
    /// (0020,000D); empty: the picture becomes a study of its own.
    pub study_instance_uid: String,
    /// (0008,0020)
    pub study_date: String,
    /// (0008,0030)
    pub study_time: String,
    /// (0020,0010)
    pub study_id: String,
    /// (0008,0050)
    pub accession_number: String,
    /// (0008,0090)
    pub referring_physician: String,
    /// (0018,0015)
    pub body_part: String,
    /// (0008,0016) and (0008,0018) of the image.
    pub image: Option<(String, String)>,
    /// Whether its pixels name the patient (0028,0301), if it says.
    pub burned_in_annotation: Option<bool>,
    /// Whether its pixels were ever compressed with loss (0028,2110).
    pub lossy: bool,
}

impl Source {
    /// What the DICOM file `bytes` says.
    ///
    /// # Errors
    /// [`Error::Picture`] when it is no DICOM file.
    pub fn of(bytes: &[u8]) -> Result<Self, Error> {
        let object = OpenFileOptions::new()
            .read_preamble(ReadPreamble::Auto)
            .read_until(tags::PIXEL_DATA)
            .from_reader(Cursor::new(bytes))
            .map_err(|e| Error::Picture(format!("the source is no readable DICOM: {e}")))?;
        let text = |tag| text(&object, tag);
        let image = (text(tags::SOP_CLASS_UID), text(tags::SOP_INSTANCE_UID));
        Ok(Self {
            patient_id: text(tags::PATIENT_ID),
            patient_name: text(tags::PATIENT_NAME),
            patient_birth_date: text(tags::PATIENT_BIRTH_DATE),
            patient_sex: text(tags::PATIENT_SEX),
            study_instance_uid: text(tags::STUDY_INSTANCE_UID),
            study_date: text(tags::STUDY_DATE),
            study_time: text(tags::STUDY_TIME),
            study_id: text(tags::STUDY_ID),
            accession_number: text(tags::ACCESSION_NUMBER),
            referring_physician: text(tags::REFERRING_PHYSICIAN_NAME),
            body_part: text(tags::BODY_PART_EXAMINED),
            image: (!image.0.is_empty() && !image.1.is_empty()).then_some(image),
            burned_in_annotation: match &*text(tags::BURNED_IN_ANNOTATION) {
                "YES" => Some(true),
                "NO" => Some(false),
                _ => None,
            },
            lossy: text(tags::LOSSY_IMAGE_COMPRESSION) == "01",
        })
    }
}

fn text(object: &DefaultDicomObject, tag: Tag) -> String {
    let value = object.element_opt(tag).ok().flatten().and_then(|e| e.to_str().ok());
    value.map(|v| v.trim_matches(['\0', ' ']).to_owned()).unwrap_or_default()
}

/// The identity of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uids {
    /// Used where the source names no study.
    pub study: String,
    /// The series: the same for all captures that belong together.
    pub series: String,
    /// This capture.
    pub instance: String,
}

impl Uids {
    /// UIDs that follow from names: `series` (run, checkpoint, patient's study), and `instance` within it (image, kind of map).
    /// The same names give the same UIDs, so a capture that is made again replaces itself.
    pub fn derived(series: &str, instance: &str) -> Self {
        let of = |parts: &[&str]| {
            let mut hash = blake3::Hasher::new();
            for part in parts {
                hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
            let mut bits = [0; 16];
            bits.copy_from_slice(&hash.finalize().as_bytes()[..16]);
            uid(u128::from_be_bytes(bits))
        };
        Self {
            study: of(&["morph study", series]),
            series: of(&["morph series", series]),
            instance: of(&["morph instance", series, instance]),
        }
    }
}

/// A UID from 122 random (or hashed) bits: a UUID as a decimal number below 2.25 (PS3.5 B.2).
pub fn uid(bits: u128) -> String {
    // Version 8 (as its maker likes), variant 1 (RFC 9562).
    let bits = bits & !(0xf << 76) | 0x8 << 76;
    let bits = bits & !(0b11 << 62) | 0b10 << 62;
    format!("2.25.{bits}")
}

/// A picture and what is said of it.
#[derive(Debug, Clone, Copy)]
pub struct Capture<'a> {
    /// The picture.
    pub image: &'a Rgb,
    /// What it was made from.
    pub source: &'a Source,
    /// Who it is.
    pub uids: &'a Uids,
    /// What it shows, in the series' description: up to 26 characters, as `morphaeus |x-x'|`.
    pub title: &'a str,
    /// How it was made: method, run, checkpoint, the map and its scale.
    pub derivation: &'a str,
    /// Version of the program that made it.
    pub version: &'a str,
    /// Number of the series within the study.
    pub series_number: u32,
    /// Number within the series.
    pub instance_number: u32,
    /// When it was made, as `YYYYMMDD` and `HHMMSS`; left out where bytes must not depend on the clock.
    pub made_at: Option<(&'a str, &'a str)>,
}

/// The capture as a DICOM file (explicit VR, little endian, not compressed).
///
/// # Errors
/// [`Error::Picture`] when the picture does not fit, or a text is none that the standard allows.
pub fn write(capture: &Capture<'_>) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::Picture(format!("secondary capture: {why}"));
    let Rgb { width, height, pixels } = capture.image;
    let side = |n: usize| u16::try_from(n).ok().filter(|n| *n > 0);
    let (Some(columns), Some(rows)) = (side(*width), side(*height)) else {
        return Err(bad(format!("an image of {width}x{height} pixels; DICOM's have 1 to 65535 a side")));
    };
    if width * height * 3 != pixels.len() {
        return Err(bad(format!("{} bytes are no colour image of {width}x{height}", pixels.len())));
    }
    let description = format!("{} {RESEARCH_USE_ONLY}", capture.title);
    check(capture, &description).map_err(bad)?;
    let (source, ids) = (capture.source, capture.uids);
    let study = if source.study_instance_uid.is_empty() { &ids.study } else { &source.study_instance_uid };
    let comments = format!("{RESEARCH_USE_ONLY}. {}", capture.derivation);
    let mut object = InMemDicomObject::from_element_iter(
        [
            (tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
            (tags::IMAGE_TYPE, VR::CS, "DERIVED\\SECONDARY"),
            (tags::SOP_CLASS_UID, VR::UI, uids::SECONDARY_CAPTURE_IMAGE_STORAGE),
            (tags::SOP_INSTANCE_UID, VR::UI, &ids.instance),
            (tags::STUDY_DATE, VR::DA, &source.study_date),
            (tags::STUDY_TIME, VR::TM, &source.study_time),
            (tags::ACCESSION_NUMBER, VR::SH, &source.accession_number),
            (tags::MODALITY, VR::CS, "OT"),
            (tags::CONVERSION_TYPE, VR::CS, "WSD"),
            (tags::MANUFACTURER, VR::LO, "morph"),
            (tags::REFERRING_PHYSICIAN_NAME, VR::PN, &source.referring_physician),
            (tags::SERIES_DESCRIPTION, VR::LO, &description),
            (tags::DERIVATION_DESCRIPTION, VR::ST, capture.derivation),
            (tags::PATIENT_NAME, VR::PN, &source.patient_name),
            (tags::PATIENT_ID, VR::LO, &source.patient_id),
            (tags::PATIENT_BIRTH_DATE, VR::DA, &source.patient_birth_date),
            (tags::PATIENT_SEX, VR::CS, &source.patient_sex),
            (tags::CONTENT_QUALIFICATION, VR::CS, "RESEARCH"),
            (tags::SOFTWARE_VERSIONS, VR::LO, capture.version),
            (tags::STUDY_INSTANCE_UID, VR::UI, study),
            (tags::SERIES_INSTANCE_UID, VR::UI, &ids.series),
            (tags::STUDY_ID, VR::SH, &source.study_id),
            // Wanted where the body part may be one of a pair; a chest is not.
            (tags::LATERALITY, VR::CS, ""),
            (tags::PATIENT_ORIENTATION, VR::CS, ""),
            (tags::IMAGE_COMMENTS, VR::LT, &comments),
            (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "RGB"),
            (tags::LOSSY_IMAGE_COMPRESSION, VR::CS, if source.lossy { "01" } else { "00" }),
        ]
        .map(|(tag, vr, value)| texts(tag, vr, value)),
    );
    let numbers = [(tags::SERIES_NUMBER, capture.series_number), (tags::INSTANCE_NUMBER, capture.instance_number)];
    numbers.into_iter().for_each(|(tag, n)| drop(object.put(texts(tag, VR::IS, &n.to_string()))));
    if !source.body_part.is_empty() {
        object.put(texts(tags::BODY_PART_EXAMINED, VR::CS, &source.body_part));
    }
    // Of whoever can read the pixels. What we write there names no patient; where the source does not say, nor do we.
    if let Some(burned_in) = source.burned_in_annotation {
        object.put(texts(tags::BURNED_IN_ANNOTATION, VR::CS, if burned_in { "YES" } else { "NO" }));
    }
    if let Some((class, instance)) = &source.image {
        object.put(reference(class, instance));
    }
    if let Some((date, time)) = capture.made_at {
        for tag in [tags::INSTANCE_CREATION_DATE, tags::CONTENT_DATE, tags::DATE_OF_SECONDARY_CAPTURE] {
            object.put(texts(tag, VR::DA, date));
        }
        for tag in [tags::INSTANCE_CREATION_TIME, tags::CONTENT_TIME, tags::TIME_OF_SECONDARY_CAPTURE] {
            object.put(texts(tag, VR::TM, time));
        }
    }
    for (tag, n) in [
        (tags::SAMPLES_PER_PIXEL, 3),
        (tags::PLANAR_CONFIGURATION, 0),
        (tags::ROWS, rows),
        (tags::COLUMNS, columns),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(n)));
    }
    let mut data = pixels.clone();
    if data.len() % 2 == 1 {
        data.push(0);
    }
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(data.into())));
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .media_storage_sop_class_uid(uids::SECONDARY_CAPTURE_IMAGE_STORAGE)
        .media_storage_sop_instance_uid(&ids.instance);
    let mut bytes = Vec::new();
    object.with_meta(meta).map_err(|e| bad(e.to_string()))?.write_all(&mut bytes).map_err(|e| bad(e.to_string()))?;
    Ok(bytes)
}

/// A text element; backslashes part values.
fn texts(tag: Tag, vr: VR, value: &str) -> DataElement<InMemDicomObject> {
    let value = match vr {
        VR::CS if value.contains('\\') => PrimitiveValue::Strs(value.split('\\').map(str::to_owned).collect()),
        _ if value.is_empty() => PrimitiveValue::Empty,
        _ => PrimitiveValue::from(value),
    };
    DataElement::new(tag, vr, value)
}

/// The image that the picture was made from, and that it was made by image processing.
fn reference(class: &str, instance: &str) -> DataElement<InMemDicomObject> {
    let sequence =
        |tag, item: InMemDicomObject| DataElement::new(tag, VR::SQ, Value::from(DataSetSequence::from(vec![item])));
    let purpose = InMemDicomObject::from_element_iter([
        texts(tags::CODE_VALUE, VR::SH, "121322"),
        texts(tags::CODING_SCHEME_DESIGNATOR, VR::SH, "DCM"),
        texts(tags::CODE_MEANING, VR::LO, "Source image for image processing operation"),
    ]);
    let item = InMemDicomObject::from_element_iter([
        texts(tags::REFERENCED_SOP_CLASS_UID, VR::UI, class),
        texts(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, instance),
        sequence(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, purpose),
    ]);
    sequence(tags::SOURCE_IMAGE_SEQUENCE, item)
}

/// What the standard says of texts.
fn check(capture: &Capture<'_>, description: &str) -> Result<(), String> {
    let Capture { source, uids, derivation, version, made_at, .. } = capture;
    let long = |what: &str, value: &str, most: usize| {
        (value.chars().count() > most)
            .then(|| format!("{what} has {} characters, {most} may be", value.chars().count()))
    };
    let problem = long("the series' description (title and notice)", description, LONGEST)
        .or_else(|| long("the version", version, LONGEST))
        .or_else(|| long("the patient's id", &source.patient_id, LONGEST))
        .or_else(|| long("the derivation", derivation, LONGEST_TEXT));
    if let Some(problem) = problem {
        return Err(problem);
    }
    for (what, value) in [("title", description), ("version", version), ("patient's id", &source.patient_id)] {
        if value.contains(['\\', '\n', '\r']) {
            return Err(format!("the {what} has a backslash or a line's end: {value:?}"));
        }
    }
    let reference = source.image.iter().flat_map(|(class, instance)| [class, instance]);
    let own = [&uids.study, &uids.series, &uids.instance];
    let study = std::iter::once(&source.study_instance_uid).filter(|uid| !uid.is_empty());
    if let Some(uid) = own.into_iter().chain(study).chain(reference).find(|uid| !is_uid(uid)) {
        return Err(format!("{uid:?} is no UID"));
    }
    let digits = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    match made_at {
        Some((date, time)) if !digits(date, 8) || !digits(time, 6) => {
            Err(format!("it was made at {date:?} {time:?}, which is not YYYYMMDD HHMMSS"))
        }
        _ => Ok(()),
    }
}

/// Up to 64 characters: numbers without leading zeros, with dots between (PS3.5 9.1).
fn is_uid(text: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && (p == "0" || !p.starts_with('0'));
    text.len() <= 64 && text.split('.').count() > 1 && text.split('.').all(part)
}
