//! Secondary captures, read back.

#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, InMemDicomObject, OpenFileOptions, file::ReadPreamble};
use morph_data::{
    heatmap::{self, Map},
    picture::Rgb,
    readers::{self, Grey},
    secondary_capture::{Capture, RESEARCH_USE_ONLY, Source, Uids, uid, write},
};

/// A radiograph of somebody with an umlaut in the name.
fn radiograph() -> Vec<u8> {
    let text = |tag, vr, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let number = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let mut object = InMemDicomObject::from_element_iter([
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100"),
        text(tags::SOP_CLASS_UID, VR::UI, uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION),
        text(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4"),
        text(tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3"),
        text(tags::STUDY_DATE, VR::DA, "20200131"),
        text(tags::PATIENT_NAME, VR::PN, "Müller^Jörg"),
        text(tags::PATIENT_ID, VR::LO, "p-7"),
        text(tags::PATIENT_SEX, VR::CS, "M"),
        text(tags::BURNED_IN_ANNOTATION, VR::CS, "NO"),
        text(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "01"),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        number(tags::SAMPLES_PER_PIXEL, 1),
        number(tags::ROWS, 4),
        number(tags::COLUMNS, 5),
        number(tags::BITS_ALLOCATED, 8),
        number(tags::BITS_STORED, 8),
        number(tags::HIGH_BIT, 7),
        number(tags::PIXEL_REPRESENTATION, 0),
    ]);
    let pixels: Vec<u8> = (0..20).map(|i| i * 10).collect();
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(pixels.into())));
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .media_storage_sop_class_uid(uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION)
        .media_storage_sop_instance_uid("1.2.3.4");
    let mut bytes = Vec::new();
    object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
    bytes
}

fn picture() -> Rgb {
    Rgb { width: 3, height: 3, pixels: (0..27).map(|i| i * 9).collect() }
}

fn capture<'a>(image: &'a Rgb, source: &'a Source, uids: &'a Uids) -> Capture<'a> {
    Capture {
        image,
        source,
        uids,
        title: "morphaeus |x-x'|",
        derivation: "run demo-1, step 120, mean |x - x'|, colours from 0 to 0.25",
        version: "0.1.0",
        series_number: 901,
        instance_number: 2,
        made_at: None,
    }
}

fn open(bytes: &[u8]) -> DefaultDicomObject {
    OpenFileOptions::new().read_preamble(ReadPreamble::Always).from_reader(Cursor::new(bytes)).unwrap()
}

fn said(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let element = object.element_opt(tag).unwrap()?;
    Some(element.to_str().unwrap().trim_matches(['\0', ' ']).to_owned())
}

#[test]
fn it_is_filed_with_its_patient_and_study_and_is_something_new() {
    let (file, image) = (radiograph(), picture());
    let (source, ids) = (Source::of(&file).unwrap(), Uids::derived("demo-1/1.2.3", "1.2.3.4"));
    let bytes = write(&capture(&image, &source, &ids)).unwrap();
    let object = open(&bytes);
    let said = |tag| said(&object, tag);
    for (tag, wanted) in [
        (tags::PATIENT_ID, "p-7"),
        (tags::PATIENT_NAME, "Müller^Jörg"),
        (tags::PATIENT_SEX, "M"),
        (tags::PATIENT_BIRTH_DATE, ""),
        (tags::STUDY_INSTANCE_UID, "1.2.3"),
        (tags::STUDY_DATE, "20200131"),
        (tags::SERIES_INSTANCE_UID, &ids.series),
        (tags::SOP_INSTANCE_UID, &ids.instance),
        (tags::SOP_CLASS_UID, uids::SECONDARY_CAPTURE_IMAGE_STORAGE),
        (tags::IMAGE_TYPE, "DERIVED\\SECONDARY"),
        (tags::BURNED_IN_ANNOTATION, "NO"),
        (tags::LOSSY_IMAGE_COMPRESSION, "01"),
        (tags::CONTENT_QUALIFICATION, "RESEARCH"),
        (tags::PHOTOMETRIC_INTERPRETATION, "RGB"),
        (tags::SERIES_NUMBER, "901"),
    ] {
        assert_eq!(said(tag).as_deref(), Some(wanted), "{tag}");
    }
    for tag in [tags::SERIES_DESCRIPTION, tags::IMAGE_COMMENTS] {
        assert!(said(tag).unwrap().contains(RESEARCH_USE_ONLY), "{tag}");
    }
    assert!(said(tags::DERIVATION_DESCRIPTION).unwrap().contains("0 to 0.25"));
    assert_eq!(object.meta().media_storage_sop_instance_uid(), ids.instance);
    let items = object.element(tags::SOURCE_IMAGE_SEQUENCE).unwrap().items().unwrap();
    let reference = items[0].element(tags::REFERENCED_SOP_INSTANCE_UID).unwrap().to_str().unwrap();
    assert_eq!((items.len(), &*reference), (1, "1.2.3.4"));
    let pixels = object.element(tags::PIXEL_DATA).unwrap().to_bytes().unwrap().into_owned();
    assert_eq!((pixels.len(), &pixels[..27]), (28, &image.pixels[..]), "an odd number of bytes is padded");
    assert_eq!(bytes, write(&capture(&image, &source, &ids)).unwrap(), "the same bytes again");
}

#[test]
fn what_the_source_does_not_say_is_not_made_up() {
    let (image, ids) = (picture(), Uids::derived("a", "b"));
    let object = open(&write(&capture(&image, &Source::default(), &ids)).unwrap());
    let said = |tag| said(&object, tag);
    for tag in [tags::PATIENT_ID, tags::PATIENT_NAME, tags::STUDY_DATE, tags::ACCESSION_NUMBER] {
        assert_eq!(said(tag).as_deref(), Some(""), "{tag} is empty, for the standard wants it");
    }
    for tag in [tags::BURNED_IN_ANNOTATION, tags::SOURCE_IMAGE_SEQUENCE, tags::BODY_PART_EXAMINED, tags::CONTENT_DATE] {
        assert!(object.element_opt(tag).unwrap().is_none(), "{tag}");
    }
    assert_eq!(said(tags::STUDY_INSTANCE_UID), Some(ids.study.clone()));
    let burned_in = Source { burned_in_annotation: Some(true), ..Source::default() };
    let made = Capture { made_at: Some(("20261123", "101500")), ..capture(&image, &burned_in, &ids) };
    let object = open(&write(&made).unwrap());
    assert_eq!(self::said(&object, tags::BURNED_IN_ANNOTATION).as_deref(), Some("YES"));
    assert_eq!(self::said(&object, tags::DATE_OF_SECONDARY_CAPTURE).as_deref(), Some("20261123"));
}

#[test]
fn uids_follow_from_names_and_are_well_formed() {
    let ids = Uids::derived("run/study", "image");
    assert_eq!(ids, Uids::derived("run/study", "image"));
    assert_eq!(ids.series, Uids::derived("run/study", "other").series, "one series, many instances");
    assert_ne!(ids.instance, Uids::derived("run/study", "other").instance);
    assert_ne!(Uids::derived("ab", "c").instance, Uids::derived("a", "bc").instance);
    for text in [&ids.study, &ids.series, &ids.instance, &uid(0), &uid(u128::MAX)] {
        let number: u128 = text.strip_prefix("2.25.").unwrap().parse().unwrap();
        assert_eq!((number >> 76 & 0xf, number >> 62 & 0b11), (8, 0b10), "{text} is a UUID of version 8, variant 1");
        assert!(text.len() <= 64);
    }
}

#[test]
fn what_the_standard_forbids_is_refused() {
    let (image, source, ids) = (picture(), Source::default(), Uids::derived("a", "b"));
    let good = capture(&image, &source, &ids);
    let long = "x".repeat(27);
    let broken = Rgb { width: 3, height: 3, pixels: vec![0; 26] };
    let wide = Rgb { width: 70_000, height: 1, pixels: vec![0; 210_000] };
    let uid = Uids { series: "2.25.07".into(), ..ids.clone() };
    let study = Source { study_instance_uid: "study".into(), ..Source::default() };
    for (wanted, capture) in [
        ("description", Capture { title: &long, ..good }),
        ("backslash", Capture { title: "a\\b", ..good }),
        ("no colour image", Capture { image: &broken, ..good }),
        ("1 to 65535", Capture { image: &wide, ..good }),
        ("\"2.25.07\" is no UID", Capture { uids: &uid, ..good }),
        ("\"study\" is no UID", Capture { source: &study, ..good }),
        ("YYYYMMDD", Capture { made_at: Some(("2026-11-23", "101500")), ..good }),
    ] {
        let why = write(&capture).unwrap_err().to_string();
        assert!(why.contains(wanted), "{why}");
    }
    assert!(Source::of(b"no dicom").unwrap_err().to_string().contains("no readable DICOM"));
}

/// From the file to the capture of its heat map, as a program would. With MORPH_CAPTURE the file is left there, for other readers.
#[test]
fn a_heat_map_of_a_file_becomes_a_capture() {
    let file = radiograph();
    let (grey, _) = readers::dicom::read(&file).unwrap();
    let grey = Grey { width: 320, height: 256, pixels: grey.pixels.repeat(320 * 256 / 20) };
    let map = Map { width: 2, height: 2, values: &[0.0, 0.1, 0.2, 0.4] };
    let picture = heatmap::captioned(&heatmap::overlay(&grey, &map, 0.25).unwrap(), 0.25, RESEARCH_USE_ONLY);
    let (source, ids) = (Source::of(&file).unwrap(), Uids::derived("demo-1/1.2.3", "1.2.3.4"));
    let bytes = write(&Capture { made_at: Some(("20261123", "101500")), ..capture(&picture, &source, &ids) }).unwrap();
    let object = open(&bytes);
    let side = |tag| object.element(tag).unwrap().to_int::<usize>().unwrap();
    assert_eq!((side(tags::COLUMNS), side(tags::ROWS)), (320, picture.height));
    assert_eq!(object.element(tags::PIXEL_DATA).unwrap().to_bytes().unwrap().len(), 320 * picture.height * 3);
    if let Some(path) = std::env::var_os("MORPH_CAPTURE") {
        std::fs::write(path, bytes).unwrap();
    }
}
