//! Methods as ONNX: the nodes that their layers are made of, with the weights as constants.

use std::collections::BTreeMap;

use morph_checkpoint::onnx::{self, Attribute};
use tch::{Kind, Tensor};

use crate::{Error, Method, to_data};

pub use onnx::Value;

/// The values that a method's graph gives, by name, with their planes.
pub type Outputs = Vec<(&'static str, Value, i64)>;

/// A graph that grows.
#[derive(Debug)]
pub struct Graph(onnx::Graph);

/// The method's graph as an ONNX file for images of `side` × `side` pixels and batches of any size; the names of its outputs. Codes
/// are the means of their distributions.
///
/// # Errors
/// [`Error::Graph`] when the method has none; when a tensor cannot be read.
pub fn write(
    method: &dyn Method,
    side: i64,
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Vec<&'static str>), Error> {
    let (graph, image) = onnx::Graph::new(side);
    let mut graph = Graph(graph);
    let outputs = method.graph(&mut graph, &image)?;
    let names = outputs.iter().map(|(name, ..)| *name).collect();
    Ok((graph.0.write(&outputs, metadata), names))
}

impl Graph {
    /// The side of the image in pixels.
    pub(crate) fn side(&self) -> i64 {
        self.0.side()
    }

    pub(crate) fn tensor(&mut self, t: &Tensor) -> Result<Value, Error> {
        Ok(self.0.constant(&to_data(&t.to_kind(Kind::Float))?))
    }

    fn optional(&mut self, t: Option<&Tensor>) -> Result<Value, Error> {
        t.map_or_else(|| Ok(onnx::Graph::nothing()), |t| self.tensor(t))
    }

    pub(crate) fn number(&mut self, v: f64) -> Value {
        self.0.floats(&[], &[v as f32])
    }

    /// A node that takes values only.
    pub(crate) fn op(&mut self, operator: &str, inputs: &[&Value]) -> Value {
        self.0.node(operator, inputs, &[])
    }

    /// `x` and a number.
    pub(crate) fn with(&mut self, operator: &str, x: &Value, v: f64) -> Value {
        let v = self.number(v);
        self.op(operator, &[x, &v])
    }

    pub(crate) fn conv(
        &mut self,
        x: &Value,
        (weight, bias): (&Tensor, Option<&Tensor>),
        stride: i64,
        pad: i64,
    ) -> Result<Value, Error> {
        let inputs = [&self.tensor(weight)?, &self.optional(bias)?];
        let attributes = [("strides", Attribute::Ints(vec![stride; 2])), ("pads", Attribute::Ints(vec![pad; 4]))];
        Ok(self.0.node("Conv", &[x, inputs[0], inputs[1]], &attributes))
    }

    pub(crate) fn conv_transpose(
        &mut self,
        x: &Value,
        (weight, bias): (&Tensor, Option<&Tensor>),
        stride: i64,
        pad: i64,
        output_pad: i64,
    ) -> Result<Value, Error> {
        let inputs = [&self.tensor(weight)?, &self.optional(bias)?];
        let attributes = [
            ("strides", Attribute::Ints(vec![stride; 2])),
            ("pads", Attribute::Ints(vec![pad; 4])),
            ("output_padding", Attribute::Ints(vec![output_pad; 2])),
        ];
        Ok(self.0.node("ConvTranspose", &[x, inputs[0], inputs[1]], &attributes))
    }

    /// BatchNorm with these running statistics.
    pub(crate) fn batch_norm(&mut self, x: &Value, [w, b, mean, var]: [&Tensor; 4], eps: f64) -> Result<Value, Error> {
        let inputs = [&self.tensor(w)?, &self.tensor(b)?, &self.tensor(mean)?, &self.tensor(var)?];
        let all = [x, inputs[0], inputs[1], inputs[2], inputs[3]];
        Ok(self.0.node("BatchNormalization", &all, &[("epsilon", Attribute::Float(eps as f32))]))
    }

    /// GroupNorm, which ONNX of this version has not: InstanceNorm of the groups, then scale and shift.
    pub(crate) fn group_norm(
        &mut self,
        x: &Value,
        groups: i64,
        (weight, bias): (&Tensor, &Tensor),
        (side, eps): (i64, f64),
    ) -> Result<Value, Error> {
        let channels = weight.numel() as i64;
        let grouped = self.reshape(x, &[-1, groups, channels / groups * side * side]);
        let (ones, zeros) = (vec![1.0; groups as usize], vec![0.0; groups as usize]);
        let scale = self.0.floats(&[groups as u64], &ones);
        let shift = self.0.floats(&[groups as u64], &zeros);
        let epsilon = [("epsilon", Attribute::Float(eps as f32))];
        let normed = self.0.node("InstanceNormalization", &[&grouped, &scale, &shift], &epsilon);
        let back = self.reshape(&normed, &[-1, channels, side, side]);
        let plane = [1, channels, 1, 1];
        let (w, b) = (self.tensor(&weight.f_reshape(plane)?)?, self.tensor(&bias.f_reshape(plane)?)?);
        let scaled = self.op("Mul", &[&back, &w]);
        Ok(self.op("Add", &[&scaled, &b]))
    }

    pub(crate) fn silu(&mut self, x: &Value) -> Value {
        let gate = self.op("Sigmoid", &[x]);
        self.op("Mul", &[x, &gate])
    }

    pub(crate) fn leaky(&mut self, x: &Value, slope: f64) -> Value {
        self.0.node("LeakyRelu", &[x], &[("alpha", Attribute::Float(slope as f32))])
    }

    /// Fully connected, of `x [batch, inputs]`.
    pub(crate) fn linear(&mut self, x: &Value, weight: &Tensor, bias: &Tensor) -> Result<Value, Error> {
        let inputs = [&self.tensor(weight)?, &self.tensor(bias)?];
        Ok(self.0.node("Gemm", &[x, inputs[0], inputs[1]], &[("transB", Attribute::Int(1))]))
    }

    pub(crate) fn flatten(&mut self, x: &Value) -> Value {
        self.0.node("Flatten", &[x], &[("axis", Attribute::Int(1))])
    }

    pub(crate) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.0.ints(shape);
        self.op("Reshape", &[x, &shape])
    }

    /// The first `n` of axis 1.
    pub(crate) fn first(&mut self, x: &Value, n: i64) -> Value {
        let (from, to, axis) = (self.0.ints(&[0]), self.0.ints(&[n]), self.0.ints(&[1]));
        self.op("Slice", &[x, &from, &to, &axis])
    }

    /// Twice the size, bilinear, corners aligned.
    pub(crate) fn twice_bilinear(&mut self, x: &Value) -> Value {
        self.resize(x, [("mode", "linear"), ("coordinate_transformation_mode", "align_corners")])
    }

    /// Twice the size, each pixel four times.
    pub(crate) fn twice_nearest(&mut self, x: &Value) -> Value {
        self.resize(x, [("nearest_mode", "floor"), ("coordinate_transformation_mode", "asymmetric")])
    }

    fn resize(&mut self, x: &Value, attributes: [(&'static str, &'static str); 2]) -> Value {
        let (none, scales) = (onnx::Graph::nothing(), self.0.floats(&[4], &[1.0, 1.0, 2.0, 2.0]));
        let attributes = attributes.map(|(name, text)| (name, Attribute::Text(text)));
        self.0.node("Resize", &[x, &none, &scales], &attributes)
    }

    /// Means of 2×2 pixels.
    pub(crate) fn halve(&mut self, x: &Value) -> Value {
        let two = || Attribute::Ints(vec![2; 2]);
        self.0.node("AveragePool", &[x], &[("kernel_shape", two()), ("strides", two())])
    }

    /// A border of one pixel, reflected.
    pub(crate) fn reflect(&mut self, x: &Value) -> Value {
        let pads = self.0.ints(&[0, 0, 1, 1, 0, 0, 1, 1]);
        self.0.node("Pad", &[x, &pads], &[("mode", Attribute::Text("reflect"))])
    }

    pub(crate) fn concat(&mut self, parts: &[&Value]) -> Value {
        self.0.node("Concat", parts, &[("axis", Attribute::Int(1))])
    }

    /// `x` with its two planes exchanged, and planes last: what `GridSample` wants of places.
    fn places(&mut self, x: &Value) -> Value {
        let exchanged = self.0.ints(&[1, 0]);
        let swapped = self.0.node("Gather", &[x, &exchanged], &[("axis", Attribute::Int(1))]);
        self.0.node("Transpose", &[&swapped], &[("perm", Attribute::Ints(vec![0, 2, 3, 1]))])
    }

    /// `src` sampled at `grid + flow`, as the deformer does it.
    pub(crate) fn warp(&mut self, src: &Value, flow: &Value, grid: &Value) -> Value {
        let at = self.op("Add", &[grid, flow]);
        let last = (self.side() - 1) as f64;
        let share = self.with("Div", &at, last);
        let centred = self.with("Sub", &share, 0.5);
        let normalised = self.with("Mul", &centred, 2.0);
        let places = self.places(&normalised);
        let attributes = [
            ("mode", Attribute::Text("bilinear")),
            ("padding_mode", Attribute::Text("zeros")),
            ("align_corners", Attribute::Int(1)),
        ];
        self.0.node("GridSample", &[src, &places], &attributes)
    }

    /// The displacement of a velocity, by scaling and squaring.
    pub(crate) fn integrate(&mut self, velocity: &Value, grid: &Value, steps: u32) -> Value {
        let mut flow = self.with("Mul", velocity, 0.5f64.powi(steps as i32));
        for _ in 0..steps {
            let moved = self.warp(&flow, &flow, grid);
            flow = self.op("Add", &[&flow, &moved]);
        }
        flow
    }
}
