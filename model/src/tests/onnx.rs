//! Every method's ONNX file, run node by node as the standard says what each operator computes (onnx, Operators.md, version 16),
//! against the method itself. The interpreter knows nothing of how the file is written.

use std::collections::BTreeMap;

use morph_checkpoint::{Dtype, TensorData};
use morph_spec::experiment as spec;
use tch::{Device, Kind, Tensor};

use super::export::{SIDE, small};
use crate::{from_data, graph, script};

/// A field of a message of protocol buffers.
enum Field<'a> {
    Int(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut n, mut shift) = (0, 0);
    loop {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        n |= u64::from(first & 0x7f) << shift;
        shift += 7;
        if first & 0x80 == 0 {
            return n;
        }
    }
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Int(varint(&mut bytes)),
            2 => {
                let n = varint(&mut bytes) as usize;
                let (inner, rest) = bytes.split_at(n);
                bytes = rest;
                Field::Bytes(inner)
            }
            5 => {
                let (v, rest) = bytes.split_first_chunk().unwrap();
                bytes = rest;
                Field::Float(f32::from_le_bytes(*v))
            }
            wire => panic!("wire type {wire}"),
        };
        out.push((key >> 3, field));
    }
    out
}

fn bytes_of(message: &[u8], field: u64) -> Vec<&[u8]> {
    fields(message)
        .into_iter()
        .filter_map(|(f, v)| if let (true, Field::Bytes(b)) = (f == field, v) { Some(b) } else { None })
        .collect()
}

fn ints_of(message: &[u8], field: u64) -> Vec<i64> {
    fields(message)
        .into_iter()
        .filter_map(|(f, v)| if let (true, Field::Int(n)) = (f == field, v) { Some(n.cast_signed()) } else { None })
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A node: what it is, takes and gives, and its attributes as messages.
struct Node<'a> {
    operator: String,
    inputs: Vec<String>,
    output: String,
    attributes: BTreeMap<String, &'a [u8]>,
}

impl Node<'_> {
    fn ints(&self, name: &str) -> Vec<i64> {
        ints_of(self.attributes[name], 8)
    }

    fn int(&self, name: &str) -> i64 {
        ints_of(self.attributes[name], 3)[0]
    }

    fn float(&self, name: &str) -> f64 {
        let all = fields(self.attributes[name]).into_iter();
        all.filter_map(|(_, v)| if let Field::Float(v) = v { Some(f64::from(v)) } else { None }).next().unwrap()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.attributes.get(name).map(|a| text(bytes_of(a, 4)[0]))
    }

    fn run(&self, values: &BTreeMap<String, Tensor>) -> Tensor {
        let get = |i: usize| values.get(&self.inputs[i]);
        let x = get(0).unwrap();
        let y = || get(1).unwrap();
        let numbers = |i: usize| -> Vec<i64> { Vec::try_from(get(i).unwrap()).unwrap() };
        let twice = || [x.size()[2] * 2, x.size()[3] * 2];
        match self.operator.as_str() {
            "Conv" => x.conv2d(y(), get(2), self.ints("strides"), &self.ints("pads")[2..], [1, 1], 1),
            "ConvTranspose" => {
                let (pads, more) = (self.ints("pads"), self.ints("output_padding"));
                x.conv_transpose2d(y(), get(2), self.ints("strides"), &pads[2..], more, 1, [1, 1])
            }
            "BatchNormalization" => {
                x.batch_norm(get(1), get(2), get(3), get(4), false, 0.0, self.float("epsilon"), false)
            }
            "InstanceNormalization" => {
                let stats = None::<&Tensor>;
                x.instance_norm(get(1), get(2), stats, stats, true, 0.0, self.float("epsilon"), false)
            }
            "Add" => x + y(),
            "Sub" => x - y(),
            "Mul" => x * y(),
            "Div" => x / y(),
            "Neg" => -x,
            "Sigmoid" => x.sigmoid(),
            "Relu" => x.relu(),
            "Tanh" => x.tanh(),
            "LeakyRelu" => x.clamp_min(0.0) + x.clamp_max(0.0) * self.float("alpha"),
            "Gemm" => {
                assert_eq!(self.int("transB"), 1);
                x.matmul(&y().transpose(0, 1)) + get(2).unwrap()
            }
            "Flatten" => x.flatten(self.int("axis"), -1),
            "Reshape" => x.reshape(numbers(1)),
            "Slice" => x.slice(numbers(3)[0], numbers(1)[0], numbers(2)[0], 1),
            "Resize" => {
                let scales: Vec<f32> = Vec::try_from(get(2).unwrap()).unwrap();
                assert_eq!((scales, self.inputs[1].as_str()), (vec![1.0, 1.0, 2.0, 2.0], ""));
                let corners = self.text("coordinate_transformation_mode").unwrap();
                match self.text("mode").as_deref() {
                    Some("linear") => {
                        assert_eq!(corners, "align_corners");
                        x.upsample_bilinear2d(twice(), true, None, None)
                    }
                    None => {
                        assert_eq!(
                            (corners.as_str(), self.text("nearest_mode").as_deref()),
                            ("asymmetric", Some("floor"))
                        );
                        x.upsample_nearest2d(twice(), None, None)
                    }
                    Some(other) => panic!("mode {other}"),
                }
            }
            "AveragePool" => x.avg_pool2d(self.ints("kernel_shape"), self.ints("strides"), [0, 0], false, true, None),
            "Pad" => {
                assert_eq!((self.text("mode").as_deref(), numbers(1)), (Some("reflect"), vec![0, 0, 1, 1, 0, 0, 1, 1]));
                x.reflection_pad2d([1, 1, 1, 1])
            }
            "Concat" => Tensor::cat(&self.inputs.iter().map(|i| &values[i]).collect::<Vec<_>>(), self.int("axis")),
            "Gather" => x.index_select(self.int("axis"), y()),
            "Transpose" => x.permute(self.ints("perm")),
            "GridSample" => {
                assert_eq!(
                    (self.text("mode").as_deref(), self.text("padding_mode").as_deref()),
                    (Some("bilinear"), Some("zeros"))
                );
                x.grid_sampler(y(), 0, 0, self.int("align_corners") == 1)
            }
            "Identity" => x.shallow_clone(),
            other => panic!("the operator {other} is not known"),
        }
    }
}

/// The outputs of the file on `image`, by name.
fn run(file: &[u8], image: Tensor) -> BTreeMap<String, Tensor> {
    let graph = bytes_of(file, 7)[0];
    let mut values = BTreeMap::from([("image".to_owned(), image)]);
    for constant in bytes_of(graph, 5) {
        let dtype = if ints_of(constant, 2)[0] == 7 { Dtype::I64 } else { Dtype::F32 };
        let shape = ints_of(constant, 1).iter().map(|d| *d as u64).collect();
        let data = TensorData::new(dtype, shape, bytes_of(constant, 9)[0].to_vec()).unwrap();
        values.insert(text(bytes_of(constant, 8)[0]), from_data(&data, Device::Cpu).unwrap());
    }
    for node in bytes_of(graph, 1) {
        let names = |field| bytes_of(node, field).into_iter().map(text).collect::<Vec<_>>();
        let attributes = bytes_of(node, 5).into_iter().map(|a| (text(bytes_of(a, 1)[0]), a)).collect();
        let node = Node { operator: names(4).remove(0), inputs: names(1), output: names(2).remove(0), attributes };
        let value = node.run(&values);
        assert!(values.insert(node.output.clone(), value).is_none(), "{} is given once", node.output);
    }
    let outputs = bytes_of(graph, 12).into_iter().map(|o| text(bytes_of(o, 1)[0]));
    outputs.map(|name| (name.clone(), values[&name].shallow_clone())).collect()
}

#[test]
fn every_method_becomes_onnx_that_computes_the_same() {
    super::one_thread();
    let facts = BTreeMap::from([("morph.method".to_owned(), "x".to_owned())]);
    for method in spec::Method::PAPER {
        let net = small(method, 1);
        // BatchNorm with statistics that matter.
        for (name, buffer) in net.buffers().into_iter().filter(|(n, _)| n.contains("running_")) {
            let drawn = buffer.rand_like() + if name.ends_with("var") { 0.5 } else { -0.5 };
            tch::no_grad(|| buffer.shallow_clone().copy_(&drawn));
        }
        if method == spec::Method::Morphaeus {
            // A deformation of some pixels, where a fresh one is next to nothing.
            for (_, flow) in net.parameters().into_iter().filter(|(n, _)| n == "deformer.flow.weight") {
                tch::no_grad(|| flow.shallow_clone().copy_(&(&flow * 6e4)));
            }
        }
        let (file, names) = graph::write(net.as_ref(), SIDE, &facts).unwrap();
        assert_eq!(file, graph::write(net.as_ref(), SIDE, &facts).unwrap().0, "the same bytes again");
        let x =
            (Tensor::arange(3 * SIDE * SIDE, (Kind::Float, Device::Cpu)) * 0.7).sin().abs().view([3, 1, SIDE, SIDE]);
        let wanted = net.reconstruct(&x, &mut script::Means).unwrap();
        let got = run(&file, x);
        assert_eq!(got.len(), names.len());
        let mut pairs = vec![("reconstruction", wanted.reconstruction)];
        if let (Some(deformation), Some(reversed)) = (wanted.deformation, wanted.reversed) {
            let moved = deformation.abs().max().double_value(&[]);
            assert!(moved > 0.5, "the deformation is {moved} pixels");
            pairs.extend([("prior", wanted.prior), ("deformation", deformation), ("reversed", reversed)]);
        }
        assert_eq!(names, pairs.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (name, wanted) in pairs {
            let apart = super::apart(&got[name], &wanted);
            assert!(apart < 2e-5, "{}: {name} is apart by {apart:e}", method.name());
        }
    }
}
