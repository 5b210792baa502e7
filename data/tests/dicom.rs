//! The DICOM reader against files as they are in the wild.

#![allow(clippy::unwrap_used)]

use std::io::Write;

use dicom_core::{
    DataElement, PrimitiveValue, Tag, VR,
    value::{DataSetSequence, PixelFragmentSequence},
};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use dicom_transfer_syntax_registry::entries;
use morph_data::readers::{Facts, Function, Grey, Lut, Values, Voi, dicom, grey};
use morph_spec::dataset::{Levels, Preprocess};
use proptest::prelude::*;

const WIDTH: u16 = 6;
const HEIGHT: u16 = 4;

/// A file to be: the tests change what they are about.
struct File {
    object: InMemDicomObject,
    syntax: &'static str,
}

impl File {
    /// Grey, 8 bit, not compressed, every pixel its own number times ten.
    fn new() -> Self {
        let mut file = Self { object: InMemDicomObject::new_empty(), syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN };
        for (tag, value) in [
            (tags::SAMPLES_PER_PIXEL, 1),
            (tags::ROWS, HEIGHT),
            (tags::COLUMNS, WIDTH),
            (tags::BITS_ALLOCATED, 8),
            (tags::BITS_STORED, 8),
            (tags::HIGH_BIT, 7),
            (tags::PIXEL_REPRESENTATION, 0),
        ] {
            file = file.number(tag, value);
        }
        let file = file
            .text(tags::SOP_CLASS_UID, VR::UI, uids::SECONDARY_CAPTURE_IMAGE_STORAGE)
            .text(tags::SOP_INSTANCE_UID, VR::UI, "2.25.1")
            .text(tags::PATIENT_ID, VR::LO, "somebody")
            .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
        let pixels = levels();
        file.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(pixels.into())))
    }

    fn put(mut self, element: DataElement<InMemDicomObject>) -> Self {
        self.object.put(element);
        self
    }

    fn number(self, tag: Tag, value: u16) -> Self {
        self.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)))
    }

    fn text(self, tag: Tag, vr: VR, value: &str) -> Self {
        self.put(DataElement::new(tag, vr, PrimitiveValue::from(value)))
    }

    fn without(mut self, tag: Tag) -> Self {
        self.object.remove_element(tag);
        self
    }

    fn syntax(mut self, syntax: &'static str) -> Self {
        self.syntax = syntax;
        self
    }

    /// 16-bit words of which `stored` bits are used, the highest of them `high`.
    fn words(self, stored: u16, high: u16, words: &[u16]) -> Self {
        let data = DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(words.iter().copied().collect()));
        self.number(tags::BITS_ALLOCATED, 16).number(tags::BITS_STORED, stored).number(tags::HIGH_BIT, high).put(data)
    }

    /// A sequence of one lookup table.
    fn table(self, tag: Tag, descriptor: &[u16], entries: &[u16]) -> Self {
        let words = |words: &[u16]| PrimitiveValue::U16(words.iter().copied().collect());
        let item = InMemDicomObject::from_element_iter([
            DataElement::new(tags::LUT_DESCRIPTOR, VR::US, words(descriptor)),
            DataElement::new(tags::LUT_DATA, VR::OW, words(entries)),
        ]);
        self.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(vec![item])))
    }

    fn compressed(self, syntax: &'static str, fragment: Vec<u8>) -> Self {
        let data = PixelFragmentSequence::new_fragments(vec![fragment]);
        self.syntax(syntax).put(DataElement::new(tags::PIXEL_DATA, VR::OB, data))
    }

    fn bytes(self) -> Vec<u8> {
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(self.syntax)
            .media_storage_sop_class_uid(uids::SECONDARY_CAPTURE_IMAGE_STORAGE)
            .media_storage_sop_instance_uid("2.25.1");
        let mut bytes = Vec::new();
        self.object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
        bytes
    }

    /// Everything behind the first group packed (PS3.5 A.5).
    fn deflated(self) -> Vec<u8> {
        let plain = entries::EXPLICIT_VR_LITTLE_ENDIAN.erased();
        let mut data = Vec::new();
        self.object.write_dataset_with_ts(&mut data, &plain).unwrap();
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
            .media_storage_sop_class_uid(uids::SECONDARY_CAPTURE_IMAGE_STORAGE)
            .media_storage_sop_instance_uid("2.25.1");
        let mut bytes = [&[0; 128][..], b"DICM"].concat();
        meta.build().unwrap().write(&mut bytes).unwrap();
        let mut packed = flate2::write::DeflateEncoder::new(bytes, flate2::Compression::fast());
        packed.write_all(&data).unwrap();
        packed.finish().unwrap()
    }

    fn read(self) -> Result<(Grey, Facts), String> {
        dicom::read(&self.bytes())
    }

    fn pixels(self) -> Vec<u8> {
        let (grey, _) = self.read().unwrap();
        assert_eq!((grey.width, grey.height), (usize::from(WIDTH), usize::from(HEIGHT)));
        grey.pixels
    }

    fn refused(self, why: &str) {
        let said = self.read().unwrap_err();
        assert!(said.contains(why), "it should say {why:?}: {said}");
    }
}

fn levels() -> Vec<u8> {
    (0..WIDTH * HEIGHT).map(|i| i as u8 * 10).collect()
}

fn inverted() -> Vec<u8> {
    levels().iter().map(|v| 255 - v).collect()
}

/// [`levels`] as values of `bits` bits that come out as these levels.
fn wide(bits: u32) -> Vec<u16> {
    let top = (1u32 << bits) - 1;
    levels().iter().map(|v| ((u32::from(*v) * top + 127) / 255) as u16).collect()
}

fn jpeg() -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 100);
    encoder.encode(&levels(), WIDTH, HEIGHT, jpeg_encoder::ColorType::Luma).unwrap();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

#[test]
fn every_uncompressed_syntax() {
    assert_eq!(File::new().pixels(), levels());
    assert_eq!(File::new().syntax(uids::IMPLICIT_VR_LITTLE_ENDIAN).pixels(), levels());
    // The last is big endian: retired from the standard, not from archives.
    for syntax in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2"] {
        assert_eq!(File::new().syntax(syntax).words(16, 15, &wide(16)).pixels(), levels(), "{syntax}");
    }
}

#[test]
fn a_deflated_file() {
    assert_eq!(dicom::read(&File::new().deflated()).unwrap().0.pixels, levels());
}

#[test]
fn a_file_without_preamble() {
    assert_eq!(dicom::read(&File::new().bytes()[128..]).unwrap().0.pixels, levels());
}

#[test]
fn monochrome1_is_turned_round() {
    let file = || File::new().text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1");
    assert_eq!(file().pixels(), inverted());
    assert_eq!(file().words(12, 11, &wide(12)).pixels(), inverted());
}

#[test]
fn values_are_scaled_by_the_bits_that_are_stored() {
    for bits in [10, 12, 15, 16] {
        assert_eq!(File::new().words(bits, bits - 1, &wide(u32::from(bits))).pixels(), levels(), "{bits} bits");
    }
    // Old scanners keep overlays above the stored bits, or store the value at the top of the word.
    let dirty: Vec<u16> = wide(12).iter().map(|v| v | 0xa000).collect();
    assert_eq!(File::new().words(12, 11, &dirty).pixels(), levels());
    let high: Vec<u16> = wide(12).iter().map(|v| v << 4).collect();
    assert_eq!(File::new().words(12, 15, &high).pixels(), levels());
}

#[test]
fn signed_values_keep_their_order() {
    let signed: Vec<u16> = wide(12).iter().map(|v| v.wrapping_sub(2048) & 0x0fff).collect();
    assert_eq!(File::new().words(12, 11, &signed).number(tags::PIXEL_REPRESENTATION, 1).pixels(), levels());
}

#[test]
fn modality_rescale() {
    let rescaled = |slope: &str, intercept: &str| {
        File::new().text(tags::RESCALE_SLOPE, VR::DS, slope).text(tags::RESCALE_INTERCEPT, VR::DS, intercept)
    };
    assert_eq!(rescaled("1", "0").pixels(), levels());
    assert_eq!(rescaled("-1", "255").pixels(), inverted());
    assert_eq!(rescaled("0.5", "10").pixels(), levels(), "the range of the bits goes through the rescale, too");
    assert_eq!(rescaled("1", "-1024").words(12, 11, &wide(12)).pixels(), levels(), "no value is cut off");
    assert_eq!(rescaled("-1", "4095").words(12, 11, &wide(12)).pixels(), inverted());
    assert_eq!(rescaled("-1", "0").pixels(), inverted());
    rescaled("0", "7").refused("leaves nothing");
    rescaled("nan", "0").refused("leaves nothing");
}

#[test]
fn jpeg_baseline_and_rle() {
    let pixels = File::new().compressed(uids::JPEG_BASELINE8_BIT, jpeg()).pixels();
    assert!(pixels.iter().zip(levels()).all(|(a, b)| a.abs_diff(b) <= 3), "{pixels:?}");

    // One segment, each run a literal (PS3.5 annex G).
    let mut rle = vec![0; 64];
    (rle[0], rle[4]) = (1, 64);
    rle.push(WIDTH as u8 * HEIGHT as u8 - 1);
    rle.extend(levels());
    rle.resize(rle.len().next_multiple_of(2), 0x80);
    assert_eq!(File::new().compressed(uids::RLE_LOSSLESS, rle).pixels(), levels());
}

#[test]
fn a_modality_table_goes_before_everything_else() {
    let values = |file: File| match dicom::image(&file.bytes()).unwrap().0 {
        image if image.bits == 12 && !image.signed && image.rescale == (1.0, 0.0) => image.values,
        image => panic!("{image:?}"),
    };
    // Below it the first entry, beyond it the last; a rescale beside it does not count.
    let file = || File::new().words(12, 11, &(0..24).collect::<Vec<u16>>());
    let wanted: Vec<u16> = (0..24).map(|v: u16| [100, 90, 4000][usize::from(v.saturating_sub(5)).min(2)]).collect();
    for syntax in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2"] {
        let table = file().syntax(syntax).table(tags::MODALITY_LUT_SEQUENCE, &[3, 5, 12], &[100, 90, 4000]);
        assert_eq!(values(table.text(tags::RESCALE_SLOPE, VR::DS, "7")), Values::Words(wanted.clone()), "{syntax}");
    }
    // Signed pixels begin it below zero.
    let signed = file().number(tags::PIXEL_REPRESENTATION, 1);
    let table = signed.table(tags::MODALITY_LUT_SEQUENCE, &[3, (-1i16) as u16, 12], &[1, 2, 3]);
    assert_eq!(values(table), Values::Words((0..24).map(|v: u16| if v == 0 { 2 } else { 3 }).collect()));
    // Two entries of 8 bit in a word.
    let packed = File::new().table(tags::MODALITY_LUT_SEQUENCE, &[4, 0, 8], &[0x1400, 0xff28]);
    assert_eq!(packed.pixels()[..2], [0, 255]);
    for (descriptor, why) in [([9, 0, 12], "3 entries of 9"), ([0, 0, 12], "3 entries of 65536"), ([3, 0, 4], "4 bits")]
    {
        file().table(tags::MODALITY_LUT_SEQUENCE, &descriptor, &[1, 2, 3]).refused(why);
    }
}

#[test]
fn how_the_file_wants_to_be_seen() {
    let window = || File::new().text(tags::WINDOW_CENTER, VR::DS, "40\\70").text(tags::WINDOW_WIDTH, VR::DS, "80.5\\9");
    let voi = |file: File| dicom::image(&file.bytes()).unwrap().0.voi;
    let function = |name: &str| voi(window().text(tags::VOILUT_FUNCTION, VR::CS, name));
    assert_eq!(voi(File::new()), Ok(None));
    assert_eq!(voi(window()), Ok(Some(Voi::Window(40.0, 80.5, Function::Linear))), "the first of several");
    assert_eq!(function("LINEAR_EXACT"), Ok(Some(Voi::Window(40.0, 80.5, Function::LinearExact))));
    assert_eq!(function("SIGMOID"), Ok(Some(Voi::Window(40.0, 80.5, Function::Sigmoid))));
    let table = Lut { first: 7, entries: vec![1, 2], bits: 10 };
    let both = || window().table(tags::VOILUT_SEQUENCE, &[2, 7, 10], &[1, 2]);
    assert_eq!(voi(both()), Ok(Some(Voi::Table(table))), "a table goes before a window");
    assert_eq!(voi(window().text(tags::WINDOW_WIDTH, VR::DS, "0")), Ok(None), "zeros are no window");

    // What is not known is only asked of those who want the file's own way.
    let strange = window().text(tags::VOILUT_FUNCTION, VR::CS, "CUBIC").bytes();
    let levels = |levels| {
        let image = dicom::image(&strange).unwrap().0;
        grey(&image, &Preprocess { levels, ..Preprocess::default() }).map(|grey| grey.pixels)
    };
    assert_eq!(levels(Levels::Bits), Ok(self::levels()));
    assert!(levels(Levels::FileWindow).unwrap_err().contains("CUBIC"));
}

#[test]
fn what_stands_for_no_image_and_what_contradicts_itself_is_told() {
    let image = |file: File| dicom::image(&file.bytes()).unwrap().0;
    let padded = |file: File, value: u16| image(file.number(tags::PIXEL_PADDING_VALUE, value)).padding;
    assert_eq!(image(File::new()).padding, None);
    assert_eq!(padded(File::new(), 3), Some((3, 3)));
    assert_eq!(padded(File::new().number(tags::PIXEL_PADDING_RANGE_LIMIT, 1), 9), Some((1, 9)));
    assert_eq!(padded(File::new(), 256), None, "8 bits hold no 256");
    let signed = || File::new().words(12, 11, &wide(12)).number(tags::PIXEL_REPRESENTATION, 1);
    assert_eq!(padded(signed(), (-2000i16) as u16), Some((48, 48)), "kept values begin at -2048");
    assert_eq!(padded(signed(), (-2049i16) as u16), None);
    let table = File::new().table(tags::MODALITY_LUT_SEQUENCE, &[3, 0, 12], &[9, 8, 7]);
    assert_eq!(padded(table, 1), Some((8, 8)), "as the table has it");

    let remarks = |photometric: &str, shape: &str| {
        let file = File::new().text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);
        image(file.text(tags::PRESENTATION_LUT_SHAPE, VR::CS, shape)).remarks.concat()
    };
    assert_eq!((remarks("MONOCHROME2", "IDENTITY"), remarks("MONOCHROME1", "INVERSE")), <_>::default());
    for (photometric, shape) in [("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")] {
        assert!(remarks(photometric, shape).contains("PresentationLUTShape"));
    }
    let table = File::new().table(tags::PRESENTATION_LUT_SEQUENCE, &[2, 0, 10], &[0, 1]);
    assert!(image(table).remarks.concat().contains("PresentationLUTSequence"));
}

#[test]
fn burnt_in_text_is_told() {
    let file = File::new().text(tags::BURNED_IN_ANNOTATION, VR::CS, "YES").bytes();
    assert!(dicom::image(&file).unwrap().1.burned_in);
}

#[test]
fn what_is_no_single_grey_image_is_refused() {
    let rgb = || File::new().text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "RGB");
    rgb().number(tags::SAMPLES_PER_PIXEL, 3).refused("only grey images");
    rgb().refused("only grey images");
    File::new().text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "PALETTE COLOR").refused("PALETTE COLOR");
    File::new().without(tags::PHOTOMETRIC_INTERPRETATION).refused("only grey images");
    File::new().text(tags::NUMBER_OF_FRAMES, VR::IS, "2").refused("2 frames");
    File::new().without(tags::PIXEL_DATA).refused("cannot be decoded");
    File::new().compressed(uids::JPEG2000, vec![0; 64]).refused("do not say their size");
    let mut video = jpeg();
    video.resize(4096, 0);
    File::new().compressed(uids::MPEG2MPML, video).refused("MPEG2 Main Profile");
}

/// What was found by fuzzing (docs/security.md): the library takes memory, or calls itself, for whatever a file claims.
#[test]
fn what_a_file_claims_is_held_against_its_size() {
    let says = |more: &[u8], why: &str| {
        let said = dicom::read(&[&File::new().bytes(), more].concat()).unwrap_err();
        assert!(said.contains(why), "it should say {why:?}: {said}");
    };
    says(b"\xe1\x7f\x10\x00OW\0\0\xfe\xff\xff\xff", "claims 4294967294 bytes, 0 are left");
    let sequence = b"\xe1\x7f\x10\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff";
    says(&sequence.repeat(50_000), "more than 32 sequences");
    let mut file = File::new().bytes();
    let version = file.windows(2).position(|vr| vr == b"SH").unwrap();
    // A type that nobody knows has four bytes of length, behind two that are not looked at.
    file.splice(version..version + 8, *b"S?\0\0\xff\xff\xff\x0f");
    assert!(dicom::read(&file).unwrap_err().contains("claims 268435455 bytes"));
    let wide = || File::new().number(tags::ROWS, 10_000).number(tags::COLUMNS, 10_000);
    wide().compressed(uids::JPEG_BASELINE8_BIT, jpeg()).refused("hold no 10000x10000 pixels");
    let mut runs = vec![0; 64];
    runs[..4].copy_from_slice(&0x0600_0000u32.to_le_bytes());
    File::new().compressed(uids::RLE_LOSSLESS, runs).refused("no 1 segments");
    let packed = File::new().deflated();
    for cut in [packed.len() - 5, packed.len() / 2 + 100] {
        assert!(dicom::read(&packed[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn sizes_and_bits_that_make_no_sense_are_refused() {
    File::new().without(tags::ROWS).refused("makes no sense");
    File::new().number(tags::COLUMNS, 0).refused("makes no sense");
    File::new().number(tags::ROWS, 65535).number(tags::COLUMNS, 65535).refused("makes no sense");
    assert!(File::new().number(tags::ROWS, HEIGHT + 1).read().is_err(), "fewer pixels than promised");
    assert!(File::new().number(tags::BITS_STORED, 0).read().is_err());
    assert!(File::new().number(tags::BITS_STORED, 12).read().is_err(), "12 of 8 bits");
    assert!(File::new().number(tags::HIGH_BIT, 15).read().is_err(), "bit 15 of 8 bits");
}

#[test]
fn other_files_and_halves_are_refused() {
    for bytes in [&b""[..], b"this is no DICOM", b"\x89PNG\r\n\x1a\n", &[0; 1000]] {
        assert!(dicom::read(bytes).is_err());
    }
    let plain = File::new().bytes();
    let packed = File::new().compressed(uids::JPEG_BASELINE8_BIT, jpeg()).bytes();
    for (name, whole) in [("plain", plain), ("JPEG", packed)] {
        // The last bytes of a compressed file only say that it ends.
        for cut in (0..whole.len() - 12).step_by(7) {
            assert!(dicom::read(&whole[..cut]).is_err(), "{name}, {cut} of {} bytes", whole.len());
        }
    }
}

#[test]
fn half_a_jpeg_in_a_whole_file_is_refused() {
    let mut half = jpeg();
    half.truncate(half.len() / 2 * 2 - 14);
    let cut = File::new().compressed(uids::JPEG_BASELINE8_BIT, half).read();
    assert!(cut.is_err(), "grey bands would be scored as anomalies");
}

#[test]
fn a_jpeg_of_another_size_than_the_header_says_is_refused() {
    for (rows, columns) in [(HEIGHT * 2, WIDTH), (HEIGHT / 2, WIDTH), (WIDTH, HEIGHT)] {
        let file = File::new().number(tags::ROWS, rows).number(tags::COLUMNS, columns);
        file.compressed(uids::JPEG_BASELINE8_BIT, jpeg()).refused("its JPEG stream 4x6");
    }
}

#[test]
fn what_is_known_of_the_patient() {
    let of = |age: &str, sex: &str| {
        let file = File::new().text(tags::PATIENT_AGE, VR::AS, age).text(tags::PATIENT_SEX, VR::CS, sex);
        file.text(tags::VIEW_POSITION, VR::CS, "AP").read().unwrap().1
    };
    let facts = of("62", "M");
    assert_eq!(
        facts,
        Facts {
            id: Some("somebody".into()),
            view: Some("AP".into()),
            sex: Some("M".into()),
            age: Some(62),
            burned_in: false
        }
    );
    assert_eq!(of("062Y", "F").age, Some(62));
    assert_eq!(of("151", "O"), Facts { sex: None, age: None, ..facts }, "nobody is 151");
    assert_eq!(File::new().read().unwrap().1.view, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    /// A damaged file is an error or another image, never a crash: one bad file must not end the preparation of 26,684.
    #[test]
    fn damage_never_crashes(
        header in proptest::collection::vec((0..7usize, prop_oneof![0..20u16, any::<u16>()]), 0..3),
        stream in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        packed: bool,
    ) {
        let mut file = if packed {
            let mut jpeg = jpeg();
            for (index, value) in stream {
                let i = index.index(jpeg.len());
                jpeg[i] = value;
            }
            File::new().compressed(uids::JPEG_BASELINE8_BIT, jpeg)
        } else {
            File::new().words(12, 11, &wide(12))
        };
        let tags = [
            tags::SAMPLES_PER_PIXEL, tags::ROWS, tags::COLUMNS, tags::BITS_ALLOCATED, tags::BITS_STORED, tags::HIGH_BIT,
            tags::PIXEL_REPRESENTATION,
        ];
        for (tag, value) in header {
            file = file.number(tags[tag], value);
        }
        if let Ok((grey, _)) = file.read() {
            prop_assert_eq!(grey.pixels.len(), grey.width * grey.height);
        }
    }
}
