//! Small inputs that are right, from morph's own writers: what mutations and libFuzzer begin with. What was found lies beside
//! them in `seeds/` under names that begin with `found-`.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Write},
    path::Path,
};

use dicom_core::{DataElement, PrimitiveValue, VR, value::DataSetSequence};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use morph_checkpoint::{Best, Dtype, EarlyStopping, FileEntry, State, TensorData, Tensors};
use morph_data::{Meta, readers, shard::Writer};
use morph_fuzz::{Header, URL};
use morph_proto::v1;
use morph_scores::{
    Plan,
    cases::{Case, Cases, Role},
    evaluation::{Design, Pair, evaluate},
};
use morph_spec::{
    Digest, Manifest, Rng, Timestamp, WorkerId,
    dataset::Preprocess,
    manifest::{self, PatientIds},
};
use prost::Message;
use serde_json::json;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Target, name, content.
type Seed = (&'static str, String, Vec<u8>);

/// All of them.
pub fn all() -> Vec<Seed> {
    let parts = [
        weights(),
        shards(),
        images(),
        dicoms(),
        manifests(),
        scores(),
        events(),
        wire(),
        submissions(),
        texts(),
        yaml(),
    ];
    parts.into_iter().flatten().collect()
}

fn seed(target: &'static str, name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    (target, name.to_owned(), bytes.into())
}

/// Inputs that were found and are too long to lie in `seeds/`.
pub fn long(target: &str) -> Vec<(String, Vec<u8>)> {
    let named = |name: &str, bytes: Vec<u8>| vec![(name.to_owned(), bytes)];
    match target {
        "pickle" => [
            named("found-deep-tuples", [&b"\x80\x02)"[..], &b"\x85".repeat(60_000), b"."].concat()),
            named("found-long-names", long_names()),
            named("found-long-shapes", long_shapes()),
        ]
        .concat(),
        "weights" => named("found-overlapping-entries", overlapping()),
        "yaml" => {
            let repeated = format!("a: &x \"{}\"\nb: [{}]\n", "y".repeat(250_000), "*x,".repeat(1900));
            let sweep = String::from_utf8(yaml().remove(0).2).unwrap();
            let dots = sweep.replace(
                "parameters:\n",
                &format!("parameters:\n  ? \"{}a\"\n  : {{values: [1]}}\n", "a.".repeat(20_000)),
            );
            [named("found-repeated-text", repeated.into()), named("found-dots", dots.into())].concat()
        }
        _ => Vec::new(),
    }
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor of one element in storage 0.
fn scalar() -> Vec<u8> {
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x10tQ"].concat();
    [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &storage, b"K\x00K\x01\x85K\x01\x85\x89NtR"].concat()
}

/// Dictionaries of dictionaries, each twice in the next under a long name: 2^18 tensors, and a name for each.
fn long_names() -> Vec<u8> {
    let mut program = [&b"\x80\x02}("[..], &text("w"), &scalar(), b"uq\x00"].concat();
    for level in 1..=18 {
        let [a, b] = ["a", "b"].map(|name| [text(&name.repeat(1500)), vec![b'h', level - 1]].concat());
        program.extend([&b"}("[..], &a, &b, b"uq", &[level]].concat());
    }
    [&program[..], b"."].concat()
}

/// Many tensors with one shape, which is long.
fn long_shapes() -> Vec<u8> {
    let shape = [&text("s")[..], b"(", &b"K\x01".repeat(12_000), b"tq\x00"].concat();
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x10tQq\x01"].concat();
    let mut program =
        [&b"\x80\x02}("[..], &shape, &text("g"), &storage, &text("f"), b"ctorch._utils\n_rebuild_tensor_v2\nq\x02"]
            .concat();
    for n in 0..1700 {
        program.extend([&text(&n.to_string())[..], b"h\x02(h\x01K\x00h\x00h\x00\x89NtR"].concat());
    }
    [&program[..], b"u."].concat()
}

/// A zip of which all entries but the pickle are one.
fn overlapping() -> Vec<u8> {
    let tensor = |n: usize| {
        let key = text(&n.to_string());
        let storage = [b"(", &text("storage")[..], b"ctorch\nByteStorage\n", &key, &text("cpu"), b"K\x10tQ"].concat();
        [&key[..], b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage, b"K\x00K\x01\x85K\x01\x85\x89NtR"].concat()
    };
    let tensors: Vec<u8> = (0..5000).flat_map(tensor).collect();
    let program = [&b"\x80\x02}("[..], &tensors, b"u."].concat();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("m/data.pkl", program), ("m/data/0", vec![7; 300_000])] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    (1..5000).for_each(|n| zip.shallow_copy_file("m/data/0", &format!("m/data/{n}")).unwrap());
    zip.finish().unwrap().into_inner()
}

fn weights() -> Vec<Seed> {
    let tensors = Tensors::from([
        ("a.weight".to_owned(), TensorData::from_f32(&[1.0, 2.0, 3.0, 4.0])),
        ("a.steps".to_owned(), TensorData::new(Dtype::I64, vec![], vec![1; 8]).unwrap()),
        ("b".to_owned(), TensorData::new(Dtype::BF16, vec![2, 0, 3], vec![]).unwrap()),
    ]);
    let program = state_dict();
    vec![
        seed("weights", "safetensors", morph_checkpoint::weights::to_safetensors(&tensors).unwrap()),
        seed("weights", "old-format", &b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."[..]),
        seed("weights", "torch-zip", torch(&program)),
        seed("pickle", "state-dict", program),
        seed("pickle", "plain", &b"\x80\x02}q\x00(X\x05\x00\x00\x00epochq\x01K\x07X\x01\x00\x00\x00xq\x02]q\x03(G?\xf0\x00\x00\x00\x00\x00\x00Nh\x01eu."[..]),
    ]
}

/// `{"model_weights": OrderedDict(w=tensor of 2x3 in storage 0, n=scalar in storage 1), "epoch": 3}` as torch.save writes it.
fn state_dict() -> Vec<u8> {
    let storage = |class: &str, key: &str, count: u8| {
        let class = format!("ctorch\n{class}\n");
        [&b"("[..], &text("storage"), class.as_bytes(), &text(key), &text("cpu"), &[b'K', count], b"tQ"].concat()
    };
    let ordered = b"ccollections\nOrderedDict\n)R";
    let tensor = |storage: &[u8], shape: &[u8]| {
        [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], storage, b"K\x00", shape, b"\x89", ordered, b"tR"].concat()
    };
    let matrix = tensor(&storage("FloatStorage", "0", 16), b"K\x02K\x03\x86K\x03K\x01\x86");
    let scalar = tensor(&storage("IntStorage", "1", 1), b"))");
    [
        &b"\x80\x02}q\x00("[..],
        &text("model_weights"),
        ordered,
        b"q\x01(",
        &text("w"),
        &matrix,
        &text("n"),
        &scalar,
        b"u",
        &text("epoch"),
        b"K\x03u.",
    ]
    .concat()
}

fn torch(program: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in
        [("m/data.pkl", program), ("m/byteorder", b"little"), ("m/data/0", &[7; 64]), ("m/data/1", &[1, 0, 0, 0])]
    {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn shards() -> Vec<Seed> {
    let meta = |i: u32| Meta {
        id: format!("id-{i}"),
        patient: format!("p{i}"),
        label: "Normal".into(),
        view: (i != 1).then(|| "PA".into()),
        sex: None,
        age: (i > 0).then_some(40),
        boxes: (0..i).map(|k| [k as f32, 0.25, 0.5, 0.125]).collect(),
        source: format!("{i}.dcm"),
        digest: Digest::of(&[i as u8]),
    };
    let file = |rows: u32| {
        let mut writer = Writer::new(2, 3);
        (0..rows).for_each(|i| writer.push(&[i as u8; 6], meta(i)));
        [vec![6], writer.finish().unwrap()].concat()
    };
    vec![seed("shard", "one", file(1)), seed("shard", "three", file(3))]
}

fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels: Vec<u8> = (0..u32::from(width) * u32::from(height)).map(|i| (i * 7) as u8).collect();
    jpeg_encoder::Encoder::new(&mut bytes, 80).encode(&pixels, width, height, jpeg_encoder::ColorType::Luma).unwrap();
    bytes
}

fn images() -> Vec<Seed> {
    let grey: Vec<u8> = (0..60).map(|i| i * 4).collect();
    let header = |syntax, rows, columns, bits| Header { syntax, rows, columns, bits, signed: false }.bytes();
    let pixels = |header: [u8; 9], fragment: &[u8]| [&header, fragment].concat();
    // One segment, of which the offset is 64: four rows of six pixels, run by run.
    let mut rle = [1u32, 64].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    rle.resize(64, 0);
    rle.extend([0xf4, 9, 0x0b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    vec![
        seed("png", "grey", readers::png::write(10, 6, &grey).unwrap()),
        seed("dicom_pixels", "baseline", pixels(header(0, 8, 16, [8, 8, 7]), &jpeg(16, 8))),
        seed("dicom_pixels", "runs", pixels(header(3, 4, 6, [8, 8, 7]), &rle)),
        seed("dicom_pixels", "words", pixels(header(4, 2, 3, [16, 12, 11]), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])),
    ]
}

fn dicoms() -> Vec<Seed> {
    let mut object = InMemDicomObject::new_empty();
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, 2),
        (tags::COLUMNS, 3),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value as u16)));
    }
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, uids::SECONDARY_CAPTURE_IMAGE_STORAGE),
        (tags::SOP_INSTANCE_UID, VR::UI, "2.25.1"),
        (tags::PATIENT_ID, VR::LO, "somebody"),
        (tags::PATIENT_AGE, VR::AS, "062Y"),
        (tags::PATIENT_SEX, VR::CS, "F"),
        (tags::VIEW_POSITION, VR::CS, "PA"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1"),
        (tags::RESCALE_SLOPE, VR::DS, "1"),
        (tags::RESCALE_INTERCEPT, VR::DS, "0"),
    ] {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }
    let item = || {
        InMemDicomObject::from_element_iter([DataElement::new(tags::CODE_VALUE, VR::SH, PrimitiveValue::from("T-1"))])
    };
    let sequence = DataSetSequence::from(vec![item(), item()]);
    object.put(DataElement::new(tags::VIEW_CODE_SEQUENCE, VR::SQ, sequence));
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8([0, 50, 100, 150, 200, 250][..].into())));
    let file = |syntax: &str| {
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(syntax)
            .media_storage_sop_class_uid(uids::SECONDARY_CAPTURE_IMAGE_STORAGE)
            .media_storage_sop_instance_uid("2.25.1");
        let mut bytes = Vec::new();
        object.clone().with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
        bytes
    };
    vec![
        seed("dicom", "explicit", file(uids::EXPLICIT_VR_LITTLE_ENDIAN)),
        seed("dicom", "implicit", file(uids::IMPLICIT_VR_LITTLE_ENDIAN)),
        seed("dicom", "big-endian", file("1.2.840.10008.1.2.2")),
    ]
}

fn manifests() -> Vec<Seed> {
    let counts = BTreeMap::from([("Normal".to_owned(), 3)]);
    let dataset = Manifest {
        version: manifest::VERSION,
        name: "tiny".into(),
        preprocess: Preprocess { size: 32, ..Preprocess::default() },
        fingerprint: Digest::of(b"tiny"),
        image_size: [32, 32],
        shards: vec![manifest::Shard {
            file: "train-00000.arrow".into(),
            split: "train".into(),
            samples: 3,
            bytes: 4096,
            blake3: Digest::of(b"shard"),
            labels: counts.clone(),
        }],
        counts: BTreeMap::from([("train".to_owned(), counts)]),
        patient_ids: PatientIds::Person,
        synthetic: true,
        skipped: BTreeMap::from([("broken".to_owned(), 1)]),
    };
    let state = State {
        step: 12,
        epoch: 3,
        batch: 2,
        world_size: 2,
        early_stopping: EarlyStopping { best: Some(0.1), epochs_since: 1, stopped: false },
        optimizer_steps: BTreeMap::from([("a.weight".to_owned(), 12)]),
        sums: BTreeMap::from([("loss".to_owned(), 0.5)]),
        best: Some(Best { url: "file:///c/manifest.json".into(), step: 10, score: 0.25 }),
        schedulers: json!({"name": "plateau"}),
        experiment: json!({"name": "x"}),
        dataset: Digest::of(b"dataset"),
        weights: None,
    };
    let files = vec![FileEntry { file: "tensors.safetensors".into(), bytes: 100, blake3: Digest::of(b"tensors") }];
    let checkpoint = morph_checkpoint::Manifest { version: 1, state, files };
    vec![
        seed("dataset_manifest", "one-shard", serde_json::to_vec(&dataset).unwrap()),
        seed("checkpoint_manifest", "step-12", serde_json::to_vec(&checkpoint).unwrap()),
    ]
}

/// What an evaluation of a few cases leaves.
fn scores() -> Vec<Seed> {
    let mut table = Cases::new(["l1", "top5"]).unwrap();
    let mut rng = Rng::keyed(5, "cases", 0);
    for (set, role, shift) in
        [("validation", Role::Validation, 0.0), ("healthy", Role::Healthy, 0.1), ("opacity", Role::Pathology, 0.5)]
    {
        for i in 0..4u32 {
            let case = Case {
                dataset: "tiny".into(),
                set: set.into(),
                role,
                id: format!("{set}-{i}"),
                patient: (i > 0).then(|| format!("p{i}")),
                label: "a \"quoted\", label".into(),
                view: Some(["AP", "PA"][i as usize % 2].into()),
                sex: Some("F".into()),
                age: Some(40 + i),
                source: None,
                scores: vec![Some(rng.uniform() + shift), (i > 1).then(|| rng.uniform())],
            };
            table.push(case).unwrap();
        }
    }
    let pair = Pair { healthy: "healthy".into(), pathology: "opacity".into() };
    let design = Design {
        score: "l1".into(),
        specificity: 0.95,
        bootstrap: Plan { resamples: 20, ..Plan::default() },
        comparisons: BTreeMap::from([("opacity".into(), pair)]),
        calibration: None,
        prevalences: Vec::new(),
    };
    vec![
        seed("cases", "twelve", table.to_csv()),
        seed("evaluation", "twelve", evaluate(&table, &design).unwrap().to_json()),
    ]
}

/// One event of each kind, as they are recorded for ever.
fn events() -> Vec<Seed> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/tests/golden/events.jsonl");
    let golden = fs::read_to_string(golden).unwrap();
    let kind =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].as_str().unwrap().to_owned();
    // Some kinds are there in several shapes.
    let lines: BTreeMap<String, &str> = golden.lines().map(|line| (kind(line), line)).collect();
    let mut seeds: Vec<Seed> =
        lines.into_iter().map(|(kind, line)| ("event", kind, line.as_bytes().to_vec())).collect();
    seeds.push(seed("event", "snapshot-urls", json!({"urls": {URL: Digest::of(b"x")}}).to_string()));
    seeds.push(seed("event", "snapshot-draining", r#"{"draining":"stop"}"#));
    seeds
}

fn wire() -> Vec<Seed> {
    use v1::{report::Report, session_request::Message as Request};
    let worker = WorkerId::new(Timestamp(1), &mut Rng::keyed(1, "worker", 0)).to_string();
    let hello = Request::Hello(v1::Hello {
        worker,
        incarnation: "one".into(),
        process: "first".into(),
        before: vec!["zeroth".into()],
        host: "127.0.0.1".into(),
        slots: 4,
        version: "0.1.0".into(),
        live: Vec::new(),
        cached: vec![Digest::of(b"tiny").to_string()],
        labels: [("gpu".to_owned(), "a100".to_owned())].into(),
        memory: 1 << 34,
    });
    let run = morph_fuzz::runs()[0].to_string();
    let fence = || Some(v1::Fence { run: run.clone(), attempt: 1 });
    let ready =
        |rank| Report::Ready(v1::RankReady { fence: fence(), rank, step: 0, total_steps: 100, cached: Vec::new() });
    let point = |step| v1::MetricPoint { step, at: 5, name: "train/loss".into(), value: 0.5 };
    let checkpoint = v1::Checkpoint {
        url: "file:///c/manifest.json".into(),
        digest: Digest::of(b"c").to_string(),
        step: 10,
        epoch: 1,
        attempt: 1,
        bytes: 100,
        score: Some(0.5),
        best: true,
        at: 6,
    };
    let line =
        v1::LogLine { run: run.clone(), attempt: 1, stream: "stderr".into(), text: "hm".into(), ..Default::default() };
    let exited = |rank, exit: v1::Exit| {
        Report::Exited(v1::RankExited { fence: fence(), rank, exit: exit.into(), code: Some(1), ..Default::default() })
    };
    let evaluated = v1::Evaluated {
        fence: fence(),
        summary: [("opacity/auroc".to_owned(), 0.75)].into(),
        summary_json: "{}".into(),
        artifacts: vec!["file:///out/panel.png".into()],
    };
    let training = [
        Report::Store(v1::StoreReady { fence: fence(), address: "127.0.0.1:4000".into() }),
        ready(0),
        ready(1),
        Report::Progress(v1::Progress { fence: fence(), step: 3, ..Default::default() }),
        Report::Metrics(v1::Metrics { fence: fence(), points: vec![point(1), point(2)] }),
        Report::Logs(v1::Logs { lines: vec![line] }),
        Report::Checkpoint(v1::CheckpointCommitted { fence: fence(), checkpoint: Some(checkpoint) }),
    ];
    let well = [Report::Evaluated(evaluated), exited(0, v1::Exit::Succeeded), exited(1, v1::Exit::Succeeded)];
    let badly = [exited(1, v1::Exit::Infra), exited(0, v1::Exit::PeerLost), Report::Leaving(v1::Leaving {})];
    let said = |reports: &[&[Report]]| -> Vec<u8> {
        let reports = reports.concat().into_iter().zip(1..);
        let reports = reports.map(|(report, seq)| Request::Report(v1::Report { seq, report: Some(report) }));
        let beat = Request::Heartbeat(v1::Heartbeat { at: 1 });
        let all = [hello.clone(), beat].into_iter().chain(reports);
        all.flat_map(|m| v1::SessionRequest { message: Some(m) }.encode_length_delimited_to_vec()).collect()
    };
    // What was found with them is in docs/security.md.
    let more = |name: &str, value| v1::MetricPoint { step: 7, name: name.into(), value, at: 1 };
    let points = |points: Vec<v1::MetricPoint>| Report::Metrics(v1::Metrics { fence: fence(), points });
    let sums = [
        points(vec![more("x", f64::MAX), v1::MetricPoint { step: 8, ..more("x", f64::MAX) }]),
        points(vec![
            v1::MetricPoint { step: 9, ..more("x", f64::MIN) },
            v1::MetricPoint { step: 10, ..more("x", f64::MIN) },
        ]),
    ];
    let last = Request::Report(v1::Report { seq: u64::MAX, report: Some(Report::Leaving(v1::Leaving {})) });
    let greeting = |change: &dyn Fn(&mut v1::Hello)| {
        let Request::Hello(mut hello) = hello.clone() else { unreachable!("it is one") };
        change(&mut hello);
        v1::SessionRequest { message: Some(Request::Hello(hello)) }.encode_length_delimited_to_vec()
    };
    let start = v1::StartRank { run_name: "tiny-1".into(), world_size: 2, fence: fence(), ..Default::default() };
    let sweep = v1::Sweep { id: run.clone(), best_value: Some(0.5), ..Default::default() };
    let watch = v1::WatchResponse { sweep: Some(sweep), workers_ready: 1, ..Default::default() };
    vec![
        seed("session", "trained", said(&[&training, &well])),
        seed("session", "lost", said(&[&training, &badly])),
        seed("session", "not-here", said(&[&[Report::NotHere(v1::AttemptNotHere { fence: fence() })]])),
        seed("session", "found-endless-sums", said(&[&training, &sums])),
        seed("session", "found-many-slots", greeting(&|h| h.slots = u32::MAX)),
        seed(
            "session",
            "found-last-number",
            [greeting(&|_| ()), v1::SessionRequest { message: Some(last) }.encode_length_delimited_to_vec()].concat(),
        ),
        seed("messages", "start", start.encode_to_vec()),
        seed("messages", "watch", watch.encode_to_vec()),
    ]
}

fn submissions() -> Vec<Seed> {
    let experiment = json!({
        "kind": "experiment", "name": "tiny", "dataset": {"url": URL},
        "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
        "trainer": {"world_size": 2, "batch_size": 8},
        "evaluation": {"pathology": {"opacity": {"split": "test", "labels": ["Lung Opacity"]}}},
        "scheduling": {"priority": 5, "min_world_size": 1, "memory": "1GiB", "time_limit": "2h", "after": ["tiny-1"]},
    });
    let sweep = |method: &str, cap: u32| {
        json!({
            "kind": "sweep", "name": "grid", "experiment": experiment, "method": method, "run_cap": cap,
            "metric": {"name": "opacity/auroc", "goal": "maximize"},
            "parameters": {
                "trainer.optimizer.lr": {"values": [1e-3, 1e-4]},
                "trainer.seed": {"min": 1, "max": 3},
            },
        })
    };
    let of = |kind: u8, json: serde_json::Value| [vec![kind], json.to_string().into_bytes()].concat();
    vec![
        seed("submit", "run", of(0, experiment.clone())),
        seed("submit", "grid", of(1, sweep("grid", 6))),
        seed("submit", "random", of(1, sweep("random", 4))),
        seed("submit", "cancel", &b"\x02tiny-1"[..]),
    ]
}

fn texts() -> Vec<Seed> {
    let metrics = "# HELP morph_events Events recorded, by kind.\n# TYPE morph_events counter\n\
        morph_events_total{kind=\"a \\\"b\\\\c\\\"\"} 1.5\n# TYPE s histogram\n# UNIT s seconds\ns_sum 0.75\n\
        s_count 6\ns_bucket{le=\"0.5\"} 2\ns_bucket{le=\"+Inf\"} 6\n# EOF\n";
    let tables = "patientId,x,y,width,height,Target\na,1,2,3,4,1\nb,,,,,0\n\0patientId,class\na,Lung Opacity\nb,Normal\n\0patientId,person\na,p1\nb,p2\n";
    let mut seeds = vec![
        seed("telemetry", "metrics", metrics),
        seed("telemetry", "headers", "Authorization=Bearer%20abc, x-team=lab"),
        seed("telemetry", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        seed("tables", "two-images", tables),
        seed("gate", "health", "/grpc.health.v1.Health/Check\n"),
        seed("gate", "list", format!("/morph.v1.Coordinator/ListRuns\nBearer morph_{:016x}_{:064x}", 1, 2)),
        seed("gate", "session", "/morph.v1.Agents/Session\nBasic YTpi"),
        seed("certificate", "agent", certificate()),
    ];
    for (name, location) in [
        ("path", "/data/rsna"),
        ("file", "file:///data/rsna"),
        ("bucket", "s3://bucket/data"),
        ("web", "https://example.org/data?x=1#y"),
        ("user", "http://user:secret@example.org:8080/data"),
        ("metadata", "http://169.254.169.254/latest/meta-data/"),
        ("v6", "http://[fd00:ec2::254]/x"),
        ("mapped", "http://[::ffff:169.254.169.254]/x"),
        ("number", "http://2130706433/x"),
    ] {
        seeds.push(seed("location", name, location));
    }
    seeds
}

fn certificate() -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    let name = format!("{}agent/node-7", morph_coordinator::auth::certificate::PREFIX);
    params.subject_alt_names = vec![rcgen::SanType::URI(name.as_str().try_into().unwrap())];
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn yaml() -> Vec<Seed> {
    let sweep = "kind: sweep\nname: s\nmetric: {name: opacity/auroc, goal: maximize}\nmethod: grid\nparameters:\n  trainer:\n    parameters:\n      seed: {values: [1, 2]}\nexperiment:\n  name: e\n  dataset: {url: /data}\n  model: {method: morphaeus}\n  evaluation: {pathology: {opacity: {labels: [Lung Opacity]}}}\n";
    let anchors = "x-common: &common {split: train, labels: [Normal]}\nkind: experiment\nname: '2024'\ndataset: {url: \"${HOME}/d $${x}\", train: *common, validation: {<<: *common, split: val}}\nmodel: {method: ae_s, channels: !!python/tuple [4, 8]}\ntrainer: {optimizer: {lr: 1e-3}, sync: yes}\n";
    let dataset = "kind: dataset\nname: d\nsource: {layout: rsna, root: /raw}\noutput: /out\npreprocess: {size: 64}\nsplit: {val: 0.1, others: test}\n";
    let cluster = "kind: cluster\nname: lab\nprojects:\n  thorax: {weight: 2, slots: 1.5, runs: 10, max_priority: 3}\npolicy: {aging: 10m, backfill: 5}\n";
    let wrong = "kind: experiment\nname: [a, b]\nmodel: {metod: morpheus}\ntrainer: {epochs: -1, lr: 'x', optimiser: {lr: \"1e-3\"}}\n";
    [("sweep", sweep), ("anchors", anchors), ("dataset", dataset), ("cluster", cluster), ("wrong", wrong)]
        .map(|(name, text)| seed("yaml", name, text))
        .to_vec()
}
