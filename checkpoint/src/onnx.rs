//! ONNX files (onnx/onnx.proto), as far as these networks need them: written field by field, for the format is but a few messages
//! of protocol buffers. The same graph gives the same bytes.

use std::collections::BTreeMap;

use crate::{Dtype, TensorData};

/// Version of the operators: the first with `GridSample`.
const OPERATORS: u64 = 16;
/// Version of the format that goes with them.
const FORMAT: u64 = 8;

/// A message of protocol buffers, as its bytes.
#[derive(Debug, Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.raw_varint(field << 3 | wire);
    }

    fn int(&mut self, field: u64, n: i64) {
        self.key(field, 0);
        self.raw_varint(n.cast_unsigned());
    }

    fn float(&mut self, field: u64, v: f32) {
        self.key(field, 5);
        self.0.extend(v.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }
}

/// Something that a node takes or gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

/// A setting of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// `INT`
    Int(i64),
    /// `FLOAT`
    Float(f32),
    /// `STRING`
    Text(&'static str),
    /// `INTS`
    Ints(Vec<i64>),
}

/// A graph with one input, images `[batch, 1, side, side]`.
#[derive(Debug)]
pub struct Graph {
    side: i64,
    nodes: Vec<Message>,
    constants: Vec<Message>,
    values: usize,
}

const INPUT: &str = "image";

impl Graph {
    /// A graph for images of `side` × `side` pixels, and its input.
    pub fn new(side: i64) -> (Self, Value) {
        (Self { side, nodes: Vec::new(), constants: Vec::new(), values: 0 }, Value(INPUT.to_owned()))
    }

    /// The side of the image in pixels.
    pub fn side(&self) -> i64 {
        self.side
    }

    fn next(&mut self, kind: &str) -> String {
        self.values += 1;
        format!("{kind}{}", self.values)
    }

    /// What is not given to a node that could take it.
    pub fn nothing() -> Value {
        Value(String::new())
    }

    /// A constant; f32 and i64 are what operators take.
    pub fn constant(&mut self, tensor: &TensorData) -> Value {
        let name = self.next("c");
        let mut proto = Message::default();
        tensor.shape.iter().for_each(|d| proto.int(1, *d as i64));
        proto.int(2, if tensor.dtype == Dtype::I64 { 7 } else { 1 });
        proto.text(8, &name);
        proto.bytes(9, &tensor.bytes);
        self.constants.push(proto);
        Value(name)
    }

    /// Whole numbers: shapes, axes.
    pub fn ints(&mut self, numbers: &[i64]) -> Value {
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(&TensorData { dtype: Dtype::I64, shape: vec![numbers.len() as u64], bytes })
    }

    /// Numbers of the shape that is given.
    pub fn floats(&mut self, shape: &[u64], numbers: &[f32]) -> Value {
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(&TensorData { dtype: Dtype::F32, shape: shape.to_vec(), bytes })
    }

    /// A node of one result.
    pub fn node(&mut self, operator: &str, inputs: &[&Value], attributes: &[(&str, Attribute)]) -> Value {
        let output = self.next("v");
        let mut proto = Message::default();
        inputs.iter().for_each(|input| proto.text(1, &input.0));
        proto.text(2, &output);
        proto.text(3, &format!("{operator}_{output}"));
        proto.text(4, operator);
        for (name, attribute) in attributes {
            let mut a = Message::default();
            a.text(1, name);
            match attribute {
                Attribute::Float(v) => a.float(2, *v),
                Attribute::Int(n) => a.int(3, *n),
                Attribute::Text(text) => a.text(4, text),
                Attribute::Ints(all) => all.iter().for_each(|n| a.int(8, *n)),
            }
            let kind = match attribute {
                Attribute::Float(_) => 1,
                Attribute::Int(_) => 2,
                Attribute::Text(_) => 3,
                Attribute::Ints(_) => 7,
            };
            a.int(20, kind);
            proto.message(5, &a);
        }
        self.nodes.push(proto);
        Value(output)
    }

    /// The file. `outputs`: each with its name and its number of planes, `[batch, planes, side, side]`.
    pub fn write(mut self, outputs: &[(&str, Value, i64)], metadata: &BTreeMap<String, String>) -> Vec<u8> {
        let side = self.side;
        for (name, value, _) in outputs {
            let mut proto = Message::default();
            proto.text(1, &value.0);
            proto.text(2, name);
            proto.text(3, &format!("Identity_{name}"));
            proto.text(4, "Identity");
            self.nodes.push(proto);
        }
        let mut graph = Message::default();
        self.nodes.iter().for_each(|node| graph.message(1, node));
        graph.text(2, "morph");
        self.constants.iter().for_each(|constant| graph.message(5, constant));
        graph.message(11, &image(INPUT, 1, side));
        outputs.iter().for_each(|(name, _, planes)| graph.message(12, &image(name, *planes, side)));
        let mut operators = Message::default();
        operators.text(1, "");
        operators.int(2, OPERATORS as i64);
        let mut model = Message::default();
        model.int(1, FORMAT as i64);
        model.text(2, "morph");
        model.text(3, env!("CARGO_PKG_VERSION"));
        model.message(7, &graph);
        model.message(8, &operators);
        for (key, value) in metadata {
            let mut entry = Message::default();
            entry.text(1, key);
            entry.text(2, value);
            model.message(14, &entry);
        }
        model.0
    }
}

/// `name: float[batch, planes, side, side]`.
fn image(name: &str, planes: i64, side: i64) -> Message {
    let mut shape = Message::default();
    let mut batch = Message::default();
    batch.text(2, "batch");
    shape.message(1, &batch);
    for n in [planes, side, side] {
        let mut dim = Message::default();
        dim.int(1, n);
        shape.message(1, &dim);
    }
    let mut tensor = Message::default();
    tensor.int(1, 1);
    tensor.message(2, &shape);
    let mut kind = Message::default();
    kind.message(1, &tensor);
    let mut info = Message::default();
    info.text(1, name);
    info.message(2, &kind);
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_protocol_buffers_have_them() {
        let mut m = Message::default();
        m.int(1, 300);
        m.int(2, -1);
        m.float(3, 1.0);
        m.text(4, "ab");
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let wanted = [&[0x08, 0xac, 2, 0x10][..], &minus_one, &[0x1d, 0, 0, 0x80, 0x3f, 0x22, 2, b'a', b'b']].concat();
        assert_eq!(m.0, wanted);
    }
}
