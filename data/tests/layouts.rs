//! Raw datasets as they are published, from listing to shards.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use morph_data::{
    Error, Meta, Samples, Silent, layouts,
    prepare::{self, Options, Report},
    readers,
};
use morph_objects::{NodeCache, Objects};
use morph_spec::{
    dataset::{
        Class, Columns, Dataset, Filter, Kind, Layout, Levels, Preprocess, Privacy, Slice, Source, Split, SplitFiles,
        Table, Unknown, Window,
    },
    experiment::Subset,
    manifest::PatientIds,
};
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

fn spec(layout: Layout, folder: &Path) -> Dataset {
    Dataset {
        kind: Kind::Dataset,
        name: "raw".into(),
        source: Source::new(layout, folder.join("raw").display().to_string()),
        output: folder.join("out").display().to_string(),
        preprocess: Preprocess { size: 8, ..Preprocess::default() },
        filter: Filter::default(),
        classes: Vec::new(),
        split: Split { val: 0.0, test: 0.0, ..Split::default() },
        labels: BTreeMap::new(),
        only_labels: Vec::new(),
        privacy: Privacy::default(),
        shard_samples: 1000,
    }
}

async fn run(spec: &Dataset) -> Result<Report, Error> {
    let options = Options { overwrite: true, ..Options::default() };
    prepare::prepare(spec, &options, &Silent).await
}

/// Every sample of a prepared dataset, by id, with its split.
async fn samples(folder: &Path, report: &Report) -> BTreeMap<String, (String, Meta, Vec<u8>)> {
    let dataset = Objects::open(&report.url).unwrap();
    let cache = NodeCache::open(&folder.join("cache"), 1 << 30).unwrap();
    let mut all = BTreeMap::new();
    for split in report.manifest.counts.keys() {
        let subset = Subset { split: split.clone(), labels: Vec::new() };
        let samples = Samples::open(&dataset, &report.manifest, &subset, &cache).await.unwrap();
        for i in 0..samples.len() {
            let meta = samples.meta(i);
            all.insert(meta.id.clone(), (split.clone(), meta, samples.image(i).to_vec()));
        }
    }
    all
}

fn says(e: &Error, all: &[&str]) {
    let said = e.to_string();
    assert!(all.iter().all(|wanted| said.contains(wanted)), "it does not say {all:?}: {said}");
}

/// A grey PNG of 16 bit, `value` everywhere but for a zero and `top`.
fn words(value: u16, top: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 16, 8);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let mut pixels = vec![value; 128];
    (pixels[0], pixels[127]) = (0, top);
    let data: Vec<u8> = pixels.iter().flat_map(|v| v.to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
    bytes
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

const HEADER: &str = ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,MethodProjection,Pediatric,Modality_DICOM,PhotometricInterpretation_DICOM,BitsStored_DICOM,ReportID,Report,MethodLabel,Labels,labelCUIS";

/// A row of PadChest's table.
fn row(name: &str, dir: &str, patient: &str, birth: &str, view: &str, photometric: &str, labels: &str) -> String {
    format!(
        "7,{name},{dir},20140915,s1,{patient},{birth},F,,{view},Manual review of DICOM fields,No,CR,{photometric},12.0,r,\"texto, con coma\",Physician,\"{labels}\",x"
    )
}

fn padchest(folder: &Path, zipped: bool) {
    let raw = folder.join("raw");
    let mut rows = vec![HEADER.to_owned()];
    let normal = "['normal']";
    for i in 0..6 {
        rows.push(row(&format!("n{i}.png"), "0", &format!("p{i}"), "1950.0", "PA", "MONOCHROME2", normal));
    }
    for (name, patient, birth, view, photometric, labels) in [
        ("inverted.png", "p6", "1950.0", "PA", "MONOCHROME1", normal),
        ("lateral.png", "p0", "1950.0", "L", "MONOCHROME2", normal),
        ("child.png", "p7", "2010.0", "PA", "MONOCHROME2", normal),
        ("unborn.png", "p7", "", "PA", "MONOCHROME2", normal),
        ("sick.png", "p8", "1950.0", "PA", "MONOCHROME2", "['infiltrates', ' pneumonia']"),
        ("atypical.png", "p9", "1950.0", "PA", "MONOCHROME2", "['atypical pneumonia', '']"),
        ("nothing.png", "p9", "1950.0", "PA", "MONOCHROME2", ""),
        ("excluded.png", "p9", "1950.0", "PA", "MONOCHROME2", "['exclude', 'normal']"),
        ("missing.png", "p9", "1950.0", "PA", "MONOCHROME2", normal),
        ("cut.png", "p9", "1950.0", "PA", "MONOCHROME2", normal),
        ("216840111366964012283393834152009033102258826_00-059-087.png", "p9", "1950.0", "PA", "MONOCHROME2", normal),
    ] {
        rows.push(row(name, "1", patient, birth, view, photometric, labels));
    }
    let image = |name: &str| match name {
        "cut.png" => words(1000, 4095)[..60].to_vec(),
        "n0.png" => words(1000, 5000),
        _ => words(1000, 4095),
    };
    let names: Vec<&str> =
        rows[1..].iter().map(|r| r.split(',').nth(1).unwrap()).filter(|n| *n != "missing.png").collect();
    for dir in ["0", "1"] {
        let here = names.iter().filter(|n| {
            (dir == "0") == n.starts_with('n') && **n != "nothing.png" || dir == "1" && **n == "nothing.png"
        });
        if zipped {
            fs::create_dir_all(&raw).unwrap();
            let mut zip = ZipWriter::new(File::create(raw.join(format!("{dir}.zip"))).unwrap());
            for name in here {
                let method = if dir == "0" { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
                zip.start_file(format!("{dir}/{name}"), SimpleFileOptions::default().compression_method(method))
                    .unwrap();
                zip.write_all(&image(name)).unwrap();
            }
            zip.finish().unwrap();
        } else {
            here.for_each(|name| write(&raw.join(dir).join(name), &image(name)));
        }
    }
    let table = rows.join("\n");
    if zipped {
        let name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz";
        let mut gz = flate2::write::GzEncoder::new(File::create(raw.join(name)).unwrap(), flate2::Compression::fast());
        gz.write_all(table.as_bytes()).unwrap();
        gz.finish().unwrap();
    } else {
        write(&raw.join("labels.csv"), table.as_bytes());
    }
}

/// PadChest in folders, and where its table lies.
fn unzipped() -> (TempDir, Dataset, PathBuf) {
    let folder = TempDir::new().unwrap();
    padchest(folder.path(), false);
    let mut spec = spec(Layout::Padchest, folder.path());
    spec.source.labels = Some("labels.csv".into());
    let table = folder.path().join("raw/labels.csv");
    (folder, spec, table)
}

#[tokio::test]
async fn padchest_in_folders_and_in_its_zip_files() {
    let mut prepared = Vec::new();
    for zipped in [false, true] {
        let folder = TempDir::new().unwrap();
        padchest(folder.path(), zipped);
        let mut spec = spec(Layout::Padchest, folder.path());
        if !zipped {
            says(&run(&spec).await.unwrap_err(), &["source.labels"]);
            spec.source.labels = Some("labels.csv".into());
        }
        spec.filter = Filter { views: vec!["PA".into()], min_age: Some(18), ..Filter::default() };
        spec.classes = vec![
            Class { label: "Normal".into(), exactly: vec!["normal".into()], any: vec![], none: vec![] },
            Class { label: "Pneumonia".into(), exactly: vec![], any: vec!["pneumonia".into()], none: vec![] },
        ];
        let report = run(&spec).await.unwrap();
        let all = samples(folder.path(), &report).await;
        let ids: Vec<&str> = all.keys().map(|k| &**k).collect();
        assert_eq!(ids, ["inverted", "n0", "n1", "n2", "n3", "n4", "n5", "sick"]);
        let reasons: BTreeMap<&str, &str> = report.skipped.iter().map(|s| (&*s.source, &*s.reason)).collect();
        for (name, why) in [
            ("1/lateral.png", "\"L\" is not in filter.views"),
            ("1/child.png", "younger"),
            ("1/unborn.png", "age is not known"),
            ("1/atypical.png", "none of `classes`"),
            ("1/nothing.png", "no labels"),
            ("1/excluded.png", "exclude"),
            ("1/missing.png", "missing"),
            ("1/cut.png", "no readable PNG"),
            ("1/216840111366964012283393834152009033102258826_00-059-087.png", "known to be missing or broken"),
        ] {
            let found = reasons.get(name).unwrap_or_else(|| panic!("{name} is not in {reasons:?}"));
            assert!(found.contains(why), "{name}: {found}");
        }
        assert_eq!(report.manifest.patient_ids, PatientIds::Person);
        let (split, meta, pixels) = &all["n1"];
        assert_eq!(
            (&**split, meta.age, meta.view.as_deref(), meta.sex.as_deref()),
            ("train", Some(64), Some("PA"), Some("F"))
        );
        let middle = 28;
        assert_eq!(pixels[middle], 62, "1000 of 12 bits");
        assert_eq!(all["inverted"].2[middle], 255 - 62);
        assert_eq!(all["n0"].2[middle], 31, "values beyond 12 bits: 13 are taken");
        assert_eq!((&*all["sick"].0, &*all["sick"].1.label), ("test", "Pneumonia"));
        prepared.push((all, report.manifest.shards));
    }
    assert_eq!(prepared[0], prepared[1], "from folders or out of zip files: the same bytes");
}

#[tokio::test]
async fn a_broken_table_is_told_by_line_and_column() {
    let (_folder, spec, path) = unzipped();
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replacen("['normal']", "normal", 2).replacen("normal", "['normal']", 1)).unwrap();
    says(&run(&spec).await.unwrap_err(), &["labels.csv:3", "\"Labels\"", "\"normal\" is no list"]);
    fs::write(&path, good.replace("PatientID", "Patient")).unwrap();
    says(&run(&spec).await.unwrap_err(), &["labels.csv", "column \"PatientID\" is missing"]);
}

#[tokio::test]
async fn an_image_that_the_table_lists_twice_is_told_by_its_line() {
    let (_folder, spec, path) = unzipped();
    let table = fs::read_to_string(&path).unwrap();
    let again = row("n3.png", "0", "p3", "1950.0", "PA", "MONOCHROME2", "['pneumonia']");
    fs::write(&path, format!("{table}\n{again}\n")).unwrap();
    says(&run(&spec).await.unwrap_err(), &["labels.csv:19", "\"ImageID\"", "\"n3.png\" is listed twice"]);
}

#[tokio::test]
async fn any_column_may_be_asked_for() {
    let (folder, mut spec, path) = unzipped();
    let table = fs::read_to_string(&path).unwrap();
    let changed = |line: &str| match line {
        line if line.contains("n1.png") => line.replace(",No,", ",PED,"),
        line if line.contains("n2.png") => line.replace(",Physician,", ",RNN_model,"),
        line if line.contains("n4.png") => line.replace(",No,", ",,"),
        line => line.to_owned(),
    };
    fs::write(&path, table.lines().map(|line| changed(line) + "\n").collect::<String>()).unwrap();
    let columns = [("Pediatric", "no"), ("MethodLabel", "Physician")];
    let columns = columns.map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
    spec.filter = Filter { columns: columns.into(), views: vec!["PA".into()], min_age: Some(18), ..Filter::default() };
    let report = run(&spec).await.unwrap();
    let ids = async |report: &Report| samples(folder.path(), report).await.into_keys().collect::<Vec<_>>();
    assert_eq!(ids(&report).await, ["atypical", "inverted", "n0", "n3", "n5", "sick"]);
    let reasons: BTreeMap<&str, &str> = report.skipped.iter().map(|s| (&*s.source, &*s.reason)).collect();
    for (name, why) in [
        ("0/n1.png", "its \"Pediatric\" is none of those"),
        ("0/n2.png", "its \"MethodLabel\" is none of those"),
        ("0/n4.png", "its \"Pediatric\" is not known"),
    ] {
        assert!(reasons[name].contains(why), "{name}: {}", reasons[name]);
    }
    spec.filter.unknown = Unknown::Keep;
    let kept = run(&spec).await.unwrap();
    assert!(ids(&kept).await.contains(&"n4".to_owned()));
    // What the table says is part of what a dataset is made from.
    fs::write(&path, table.replacen(",No,", ",PED,", 1)).unwrap();
    assert!(!run(&spec).await.unwrap().reused);
    spec.filter.columns = [("Children".to_owned(), vec!["no".to_owned()])].into();
    says(&run(&spec).await.unwrap_err(), &["labels.csv", "column \"Children\" is missing"]);
}

#[tokio::test]
async fn images_that_come_out_nearly_black_are_remarked_upon() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [("dark", 2000), ("darker", 1500), ("bright", 60_000)] {
        write(&dir.path().join(format!("raw/Normal/{name}.png")), &words(value, 4095));
    }
    let mut spec = Dataset { shard_samples: 1, ..spec(Layout::Folders, dir.path()) };
    spec.privacy = Privacy { hash_ids: true, salt: "a long enough salt for this".into(), ..Privacy::default() };
    let report = run(&spec).await.unwrap();
    let [remark] = &report.remarks[..] else { panic!("{:?}", report.remarks) };
    assert!(remark.images == 2 && remark.what.contains("min-max"), "over all shards: {remark:?}");
    assert!(!remark.example.contains("dark"), "names of files are hidden: {remark:?}");
    let again = prepare::prepare(&spec, &Options::default(), &Silent).await.unwrap();
    assert!(again.reused && again.remarks == report.remarks);
    spec.preprocess.levels = Levels::MinMax;
    assert_eq!(run(&spec).await.unwrap().remarks, []);
}

#[tokio::test]
async fn everything_that_is_left_out_is_counted() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("raw");
    let image = readers::png::write(9, 9, &[7; 81]).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"Normal/\xff.png");
    for name in ["Normal/0.png", "Normal/1.tiff", "Normal/more/2.png", "3.png", "notes.txt"] {
        write(&raw.join(name), &image);
    }
    write(&raw.join(odd), &image);
    let report = run(&spec(Layout::Folders, folder.path())).await.unwrap();
    let reasons: BTreeMap<&str, &str> = report.skipped.iter().map(|s| (&*s.source, &*s.reason)).collect();
    let wanted = [
        ("3.png", "in no folder of a label"),
        ("Normal/1.tiff", "ends in no known way"),
        ("Normal/more", "it is a folder"),
        ("Normal/\u{fffd}.png", "no text (UTF-8)"),
    ];
    assert_eq!(reasons.len(), wanted.len(), "{reasons:?}");
    for (name, why) in wanted {
        assert!(reasons[name].contains(why), "{name}: {}", reasons[name]);
    }
}

#[test]
fn what_rsnas_tables_contradict_each_other_in_is_left_out() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("raw");
    let (mut labels, mut classes) = ("patientId,x,y,width,height,Target\n".to_owned(), "patientId,class\n".to_owned());
    for (id, boxed, class) in [
        ("a", true, "Lung Opacity"),
        ("b", false, "Normal"),
        ("c", true, "Normal"),
        ("d", false, "Lung Opacity"),
        ("e", false, "Normal"),
        ("e", false, "No Lung Opacity / Not Normal"),
    ] {
        write(&raw.join(format!("stage_2_train_images/{id}.dcm")), b"");
        labels += &if boxed { format!("{id},1.0,2.0,3.0,4.0,1\n") } else { format!("{id},,,,,0\n") };
        classes += &format!("{id},{class}\n");
    }
    write(&raw.join("stage_2_train_images/f.DCM"), b"");
    write(&raw.join("stage_2_train_labels.csv"), labels.as_bytes());
    write(&raw.join("stage_2_detailed_class_info.csv"), classes.as_bytes());
    let listing = layouts::list(&spec(Layout::Rsna, folder.path())).unwrap();
    assert_eq!(listing.items.iter().map(|i| &*i.id).collect::<Vec<_>>(), ["a", "b"]);
    let reasons: BTreeMap<&str, &str> = listing.skipped.iter().map(|s| (&*s.source, &*s.reason)).collect();
    for (name, why) in [
        ("c.dcm", "says Target 1 of it, stage_2_detailed_class_info.csv \"Normal\""),
        ("d.dcm", "says Target 0"),
        ("e.dcm", "says both \"Normal\" and \"No Lung Opacity"),
        ("f.DCM", "does not end in .dcm"),
    ] {
        let found = reasons[&*format!("stage_2_train_images/{name}")];
        assert!(found.contains(why), "{name}: {found}");
    }
}

/// A workbook as Excel writes them, as far as it matters.
fn workbook(path: &Path, rows: &[[&str; 4]]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    let mut part = |name: &str, text: &str| {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    };
    let strings: String = rows.iter().flatten().map(|t| format!("<si><t>{t}</t></si>")).collect();
    part("xl/sharedStrings.xml", &format!("<?xml version=\"1.0\"?><sst>{strings}</sst>"));
    let cells = |r: usize| {
        let cell =
            |c: usize| format!("<c r=\"{}{}\" t=\"s\"><v>{}</v></c>", (b'A' + c as u8) as char, r + 1, 4 * r + c);
        (0..4).map(cell).collect::<String>()
    };
    let sheet: String = (0..rows.len()).map(|r| format!("<row r=\"{}\">{}</row>", r + 1, cells(r))).collect();
    part("xl/worksheets/sheet1.xml", &format!("<worksheet><sheetData>{sheet}</sheetData></worksheet>"));
    zip.finish().unwrap();
}

#[tokio::test]
async fn covid19_radiography_and_where_its_images_come_from() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("raw");
    let image = readers::png::write(20, 20, &[90; 400]).unwrap();
    for (class, n) in [("Normal", 4), ("COVID", 2), ("Viral Pneumonia", 1)] {
        for i in 1..=n {
            write(&raw.join(class).join("images").join(format!("{class}-{i}.png")), &image);
            write(&raw.join(class).join("masks").join(format!("{class}-{i}.png")), &image);
        }
    }
    let children = "https://www.kaggle.com/paultimothymooney/chest-xray-pneumonia";
    let rsna = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data";
    let head = ["FILE NAME", "FORMAT", "SIZE", "URL"];
    let rows = [
        head,
        ["NORMAL-1", "PNG", "256*256", rsna],
        ["NORMAL-2", "PNG", "256*256", children],
        ["NORMAL-3", "PNG", "256*256", rsna],
    ];
    workbook(&raw.join("Normal.metadata.xlsx"), &rows);
    let mut spec = spec(Layout::Covid19Radiography, folder.path());
    let listing = layouts::list(&spec).unwrap();
    let origins: Vec<_> = listing.items.iter().filter(|i| i.label == "Normal").map(|i| i.origin.as_deref()).collect();
    assert_eq!(origins, [Some(rsna), Some(children), Some(rsna), None]);
    spec.filter.without_origins = vec!["chest-xray-pneumonia".into()];
    spec.only_labels = vec!["Normal".into(), "COVID".into()];
    says(&run(&spec).await.unwrap_err(), &["COVID.metadata.xlsx", "missing", "without_origins", "unknown: keep"]);
    workbook(&raw.join("COVID.metadata.xlsx"), &[head, ["COVID-1", "PNG", "", rsna], ["covid-2", "PNG", "", rsna]]);
    let report = run(&spec).await.unwrap();
    assert_eq!(report.manifest.counts["train"]["Normal"], 2, "where the fourth comes from is not known");
    assert_eq!(report.manifest.counts["test"]["COVID"], 2);
    fs::remove_file(raw.join("COVID.metadata.xlsx")).unwrap();
    spec.filter.unknown = Unknown::Keep;
    let report = run(&spec).await.unwrap();
    assert_eq!(report.manifest.counts["train"]["Normal"], 3);
    assert_eq!(report.manifest.counts["test"]["COVID"], 2);
    assert_eq!(report.manifest.patient_ids, PatientIds::Image);
    assert!(report.skipped.iter().any(|s| s.source == "Normal/images/Normal-2.png" && s.reason.contains("origin")));
    fs::write(raw.join("COVID.metadata.xlsx"), "no workbook").unwrap();
    says(&run(&spec).await.unwrap_err(), &["COVID.metadata.xlsx", "no readable workbook"]);
    let wrong =
        Dataset { source: Source::new(Layout::Covid19Radiography, raw.join("Normal").display().to_string()), ..spec };
    says(&run(&wrong).await.unwrap_err(), &["source.root", "Lung_Opacity"]);
}

fn npy(values: &[f32]) -> Vec<u8> {
    let head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (2, {}, 4), }}\n", values.len() / 8);
    let data = values.iter().flat_map(|v| v.to_le_bytes());
    [b"\x93NUMPY\x01\0".to_vec(), (head.len() as u16).to_le_bytes().to_vec(), head.into_bytes(), data.collect()]
        .concat()
}

#[tokio::test]
async fn tables_of_files_of_every_kind() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("raw");
    write(&raw.join("a/one.png"), &readers::png::write(9, 9, &[51; 81]).unwrap());
    let mut jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut jpeg, 95).encode(&[102; 256], 16, 16, jpeg_encoder::ColorType::Luma).unwrap();
    write(&raw.join("a/two.jpg"), &jpeg);
    let volume: Vec<f32> = (0..32).map(|i| if i < 16 { 0.0 } else { 0.6 }).collect();
    write(&raw.join("b/three.npy"), &npy(&volume));
    write(&raw.join("train.csv"), b"filename,patient,view,sex,age\na/one.png,p1,PA,F,60\na/two.jpg,p2,AP,M,30\n");
    write(
        &raw.join("test.csv"),
        b"\xef\xbb\xbffilename,patient,label\nb/three.npy,p3,sick\nb/four.txt,p4,sick\nb/five.png,p5,sick\n",
    );
    let mut spec = spec(Layout::Csv, folder.path());
    let table = |file: &str, label: Option<&str>, split: &str| Table {
        file: file.into(),
        label: label.map(str::to_owned),
        split: Some(split.into()),
    };
    spec.source.tables = vec![table("train.csv", Some("Normal"), "train"), table("test.csv", None, "test")];
    spec.source.columns = Columns::default();
    spec.source.slice = Some(Slice { axis: 0, index: Some(1) });
    spec.preprocess.levels = Levels::Window;
    spec.preprocess.window = Some(Window { center: 0.5, width: 1.0 });
    let report = run(&spec).await.unwrap();
    assert_eq!(samples(folder.path(), &report).await["b/three"].2, [153; 64]);
    spec.preprocess = Preprocess { size: 8, ..Preprocess::default() };
    let report = run(&spec).await.unwrap();
    let all = samples(folder.path(), &report).await;
    assert_eq!(all["a/one"].2, [51; 64]);
    assert!(all["a/two"].2.iter().all(|p| p.abs_diff(102) <= 1), "{:?}", all["a/two"].2);
    assert_eq!(
        (all["a/one"].1.age, all["a/one"].1.view.as_deref(), &*all["a/one"].1.patient),
        (Some(60), Some("PA"), "p1")
    );
    let why: BTreeMap<&str, &str> = report.skipped.iter().map(|s| (&*s.source, &*s.reason)).collect();
    assert!(why["b/three.npy"].contains("preprocess.levels") && why["b/four.txt"].contains("known way"), "{why:?}");
    assert!(why["b/five.png"].contains("missing"));

    write(&raw.join("test.csv"), b"filename,patient,label\nb/three.npy,p1,sick\n");
    says(&run(&spec).await.unwrap_err(), &["b/three.npy", "test", "a/one.png", "same patient in train"]);
    write(&raw.join("test.csv"), b"filename,patient,label\na/one.png,p1,sick\n");
    says(&run(&spec).await.unwrap_err(), &["test.csv:2", "\"filename\"", "named twice"]);
    write(&raw.join("test.csv"), b"filename,patient\nb/three.npy,p3\n");
    says(&run(&spec).await.unwrap_err(), &["test.csv:2", "\"label\"", "source.tables"]);
}

#[tokio::test]
async fn the_references_split_files() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("raw");
    for i in 0..6 {
        write(&raw.join(format!("Normal/images/Normal-{i}.png")), &readers::png::write(9, 9, &[i; 81]).unwrap());
        write(&raw.join(format!("COVID/images/COVID-{i}.png")), &readers::png::write(9, 9, &[9 + i; 81]).unwrap());
    }
    let table = |names: &[&str]| {
        let paths = names.iter().map(|n| format!("./data/datasets/COVID-19_Radiography_Dataset/{n}\n"));
        ["filename\n".to_owned()].into_iter().chain(paths).collect::<String>()
    };
    let put = |name: &str, names: &[&str]| write(&raw.join(name), table(names).as_bytes());
    put("train.csv", &["Normal/images/Normal-0.png", "Normal/images/Normal-1.png"]);
    put("val.csv", &["Normal/images/Normal-2.png"]);
    put("test.csv", &["Normal/images/Normal-3.png", "COVID/images/COVID-3.png", "Normal/images/Normal-99.png"]);
    let mut spec = spec(Layout::Folders, folder.path());
    let list = |name: &str| vec![name.to_owned()];
    spec.split.files = SplitFiles { train: list("train.csv"), val: list("val.csv"), test: list("test.csv") };
    let report = run(&spec).await.unwrap();
    let splits: BTreeSet<(String, String)> =
        samples(folder.path(), &report).await.into_iter().map(|(id, (split, ..))| (split, id)).collect();
    let wanted = [
        ("test", "COVID/COVID-3"),
        ("test", "Normal/Normal-3"),
        ("train", "Normal/Normal-0"),
        ("train", "Normal/Normal-1"),
        ("val", "Normal/Normal-2"),
    ];
    assert_eq!(splits, wanted.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    assert!(report.skipped.iter().any(|s| s.source.contains("Normal-99") && s.reason.contains("not there")));
    assert_eq!(report.skipped.len(), 12 - 5 + 1);
    put("val.csv", &["Normal/images/Normal-1.png"]);
    says(&run(&spec).await.unwrap_err(), &["val.csv:2", "Normal-1.png", "in val and in train"]);
}

#[tokio::test]
async fn an_image_called_bad_is_left_out() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("raw");
    for i in 0..4 {
        write(&raw.join(format!("Normal/{i}.png")), &readers::png::write(9, 9, &[i; 81]).unwrap());
    }
    write(&raw.join("bad.txt"), b"# seen by hand\nNormal/1.png\n2.png\n");
    let mut spec = spec(Layout::Folders, folder.path());
    spec.source.bad_images = Some("bad.txt".into());
    let report = run(&spec).await.unwrap();
    assert_eq!((report.manifest.samples(), report.skipped.len()), (2, 2));
}
