//! InceptionV3 (Szegedy et al. 2016) up to its last pooling: the 2048 features of an image that FID is of. Two networks bear the name:
//! torchvision's, and the one that FID was defined with (`pt_inception-2015-12-05`, of the package `pytorch-fid`), which pools otherwise
//! and knows 1008 classes. Both take values in −1..1.
//!
//! As `pytorch-fid` computes it: bilinear to 299 × 299 without antialiasing, 2x − 1, the network, the mean over its last 8 × 8 pixels.

use morph_checkpoint::Tensors;
use tch::{Device, Kind, Tensor};

use crate::{Error, from_data};

/// Pixels a side of what the network sees.
const SIDE: i64 = 299;
/// Added to variances (torchvision's BasicConv2d).
const EPSILON: f64 = 1e-3;

/// Which of the two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// FID's own: averages leave the padding out, and Mixed_7c has its maximum where all other blocks have their mean.
    PytorchFid,
    /// torchvision's.
    Torchvision,
}

impl Variant {
    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PytorchFid => "pytorch-fid",
            Self::Torchvision => "torchvision",
        }
    }

    /// Classes of its last layer, by which the two are told apart.
    fn classes(self) -> u64 {
        match self {
            Self::PytorchFid => 1008,
            Self::Torchvision => 1000,
        }
    }
}

/// A convolution without bias, BatchNorm with recorded statistics, ReLU.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    /// Scale, shift, mean, variance.
    norm: [Tensor; 4],
    stride: i64,
    padding: [i64; 2],
}

impl Conv {
    fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let [scale, shift, mean, variance] = &self.norm;
        let y = x.f_conv2d(&self.weight, None::<Tensor>, [self.stride; 2], self.padding, [1, 1], 1)?;
        let mut y = y.f_batch_norm(Some(scale), Some(shift), Some(mean), Some(variance), false, 0.0, EPSILON, false)?;
        Ok(y.f_relu_()?)
    }
}

/// What stands at a branch's beginning.
#[derive(Debug, Clone, Copy)]
enum Pool {
    Mean { padding_counts: bool },
    Max { stride: i64 },
}

impl Pool {
    fn forward(self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(match self {
            Self::Mean { padding_counts } => x.f_avg_pool2d([3, 3], [1, 1], [1, 1], false, padding_counts, None)?,
            // One that does not shrink is padded.
            Self::Max { stride } => x.f_max_pool2d([3, 3], [stride; 2], [2 - stride; 2], [1, 1], false)?,
        })
    }
}

/// Pooling, convolutions one after the other, and at the end perhaps several side by side.
#[derive(Debug, Default)]
struct Branch {
    pool: Option<Pool>,
    chain: Vec<Conv>,
    fork: Vec<Conv>,
}

impl Branch {
    fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let mut h = match self.pool {
            Some(pool) => pool.forward(x)?,
            None => x.shallow_clone(),
        };
        for conv in &self.chain {
            h = conv.forward(&h)?;
        }
        if self.fork.is_empty() {
            return Ok(h);
        }
        let tips = self.fork.iter().map(|conv| conv.forward(&h)).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::f_cat(&tips, 1)?)
    }
}

/// The network.
#[derive(Debug)]
pub struct Inception {
    variant: Variant,
    device: Device,
    /// Each a list of branches side by side.
    blocks: Vec<Vec<Branch>>,
}

impl Inception {
    /// Features of an image.
    pub const FEATURES: usize = 2048;

    /// From torchvision's state dict or pytorch-fid's (`Mixed_5b.branch1x1.conv.weight`, …); what belongs to the classifiers is left
    /// aside but for the rows of `fc.weight`, which say whose it is.
    ///
    /// # Errors
    /// Names the first tensor that is missing, of another shape, or not finite.
    pub fn new(weights: &Tensors, device: Device) -> Result<Self, Error> {
        let classes = weights.get("fc.weight").ok_or_else(|| {
            Error::Similarity("the weights have no fc.weight: are they InceptionV3's whole state dict?".into())
        })?;
        let variant = [Variant::PytorchFid, Variant::Torchvision]
            .into_iter()
            .find(|v| classes.shape == [v.classes(), Self::FEATURES as u64])
            .ok_or_else(|| {
                Error::Similarity(format!(
                    "fc.weight is {:?}; pytorch-fid's InceptionV3 has [1008, 2048], torchvision's [1000, 2048]",
                    classes.shape
                ))
            })?;
        Ok(Self { variant, device, blocks: Layers { weights, device }.blocks(variant)? })
    }

    /// Whose network it is.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The features of grey images `[B, 1, H, W]` in 0..=1, as `[B, 2048]`. What is outside is cut off, as in a picture file.
    ///
    /// # Errors
    /// libtorch's.
    pub fn features(&self, images: &Tensor) -> Result<Tensor, Error> {
        tch::no_grad(|| {
            let x = images.to_device(self.device).to_kind(Kind::Float).f_clamp(0.0, 1.0)?;
            let x = x.f_upsample_bilinear2d([SIDE, SIDE], false, None, None)? * 2.0 - 1.0;
            let mut h = x.f_expand([-1, 3, -1, -1], false)?;
            for block in &self.blocks {
                let sides = block.iter().map(|branch| branch.forward(&h)).collect::<Result<Vec<_>, _>>()?;
                h = match sides.as_slice() {
                    [one] => one.shallow_clone(),
                    several => Tensor::f_cat(several, 1)?,
                };
            }
            Ok(h.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?)
        })
    }
}

/// A convolution as it is asked for: its name within the block, channels out, window, stride. It is padded to keep the size unless it has
/// a stride.
type Asked<'a> = (&'a str, i64, [i64; 2], i64);

const POINT: [i64; 2] = [1, 1];
const SQUARE: [i64; 2] = [3, 3];
const WIDE: [i64; 2] = [1, 7];
const TALL: [i64; 2] = [7, 1];

/// The state dict, from which blocks are made in the order of the network.
struct Layers<'a> {
    weights: &'a Tensors,
    device: Device,
}

impl Layers<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, Error> {
        let data = self
            .weights
            .get(name)
            .ok_or_else(|| Error::Similarity(format!("the weights have no {name}: are they InceptionV3's?")))?;
        if !data.shape.iter().map(|n| *n as i64).eq(shape.iter().copied()) {
            return Err(Error::Similarity(format!("{name} is {:?}, InceptionV3's is {shape:?}", data.shape)));
        }
        let tensor = from_data(data, self.device)?.to_kind(Kind::Float);
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::Similarity(format!("{name} has a value that is not finite: the file is damaged")));
        }
        Ok(tensor)
    }

    /// The convolution `name`, with `padding` given.
    fn padded(
        &self,
        name: &str,
        input: i64,
        output: i64,
        window: [i64; 2],
        stride: i64,
        padding: [i64; 2],
    ) -> Result<Conv, Error> {
        let weight = self.tensor(&format!("{name}.conv.weight"), &[output, input, window[0], window[1]])?;
        let norm = |what: &str| self.tensor(&format!("{name}.bn.{what}"), &[output]);
        let norm = [norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?];
        Ok(Conv { weight, norm, stride, padding })
    }

    fn conv(&self, block: &str, input: i64, (name, output, window, stride): Asked<'_>) -> Result<Conv, Error> {
        let padding = if stride == 1 { window.map(|side| side / 2) } else { [0, 0] };
        self.padded(&format!("{block}.{name}"), input, output, window, stride, padding)
    }

    fn branch(&self, block: &str, mut input: i64, chain: &[Asked<'_>], fork: &[Asked<'_>]) -> Result<Branch, Error> {
        let mut branch = Branch::default();
        for asked in chain {
            branch.chain.push(self.conv(block, input, *asked)?);
            input = asked.1;
        }
        for asked in fork {
            branch.fork.push(self.conv(block, input, *asked)?);
        }
        Ok(branch)
    }

    fn pooled(&self, block: &str, input: i64, pool: Pool, output: i64) -> Result<Branch, Error> {
        Ok(Branch { pool: Some(pool), ..self.branch(block, input, &[("branch_pool", output, POINT, 1)], &[])? })
    }

    /// torchvision's InceptionA.
    fn a(&self, block: &str, input: i64, pool: Pool, pooled: i64) -> Result<Vec<Branch>, Error> {
        let triple =
            [("branch3x3dbl_1", 64, POINT, 1), ("branch3x3dbl_2", 96, SQUARE, 1), ("branch3x3dbl_3", 96, SQUARE, 1)];
        Ok(vec![
            self.branch(block, input, &[("branch1x1", 64, POINT, 1)], &[])?,
            self.branch(block, input, &[("branch5x5_1", 48, POINT, 1), ("branch5x5_2", 64, [5, 5], 1)], &[])?,
            self.branch(block, input, &triple, &[])?,
            self.pooled(block, input, pool, pooled)?,
        ])
    }

    /// InceptionB.
    fn b(&self, block: &str, input: i64) -> Result<Vec<Branch>, Error> {
        let triple =
            [("branch3x3dbl_1", 64, POINT, 1), ("branch3x3dbl_2", 96, SQUARE, 1), ("branch3x3dbl_3", 96, SQUARE, 2)];
        Ok(vec![
            self.branch(block, input, &[("branch3x3", 384, SQUARE, 2)], &[])?,
            self.branch(block, input, &triple, &[])?,
            Branch { pool: Some(Pool::Max { stride: 2 }), ..Branch::default() },
        ])
    }

    /// InceptionC, `c` channels within.
    fn c(&self, block: &str, pool: Pool, c: i64) -> Result<Vec<Branch>, Error> {
        let once = [("branch7x7_1", c, POINT, 1), ("branch7x7_2", c, WIDE, 1), ("branch7x7_3", 192, TALL, 1)];
        let twice = [
            ("branch7x7dbl_1", c, POINT, 1),
            ("branch7x7dbl_2", c, TALL, 1),
            ("branch7x7dbl_3", c, WIDE, 1),
            ("branch7x7dbl_4", c, TALL, 1),
            ("branch7x7dbl_5", 192, WIDE, 1),
        ];
        Ok(vec![
            self.branch(block, 768, &[("branch1x1", 192, POINT, 1)], &[])?,
            self.branch(block, 768, &once, &[])?,
            self.branch(block, 768, &twice, &[])?,
            self.pooled(block, 768, pool, 192)?,
        ])
    }

    /// InceptionD.
    fn d(&self, block: &str) -> Result<Vec<Branch>, Error> {
        let long = [
            ("branch7x7x3_1", 192, POINT, 1),
            ("branch7x7x3_2", 192, WIDE, 1),
            ("branch7x7x3_3", 192, TALL, 1),
            ("branch7x7x3_4", 192, SQUARE, 2),
        ];
        Ok(vec![
            self.branch(block, 768, &[("branch3x3_1", 192, POINT, 1), ("branch3x3_2", 320, SQUARE, 2)], &[])?,
            self.branch(block, 768, &long, &[])?,
            Branch { pool: Some(Pool::Max { stride: 2 }), ..Branch::default() },
        ])
    }

    /// InceptionE.
    fn e(&self, block: &str, input: i64, pool: Pool) -> Result<Vec<Branch>, Error> {
        let fork = |a: &'static str, b: &'static str| [(a, 384, [1, 3], 1), (b, 384, [3, 1], 1)];
        Ok(vec![
            self.branch(block, input, &[("branch1x1", 320, POINT, 1)], &[])?,
            self.branch(block, input, &[("branch3x3_1", 384, POINT, 1)], &fork("branch3x3_2a", "branch3x3_2b"))?,
            self.branch(
                block,
                input,
                &[("branch3x3dbl_1", 448, POINT, 1), ("branch3x3dbl_2", 384, SQUARE, 1)],
                &fork("branch3x3dbl_3a", "branch3x3dbl_3b"),
            )?,
            self.pooled(block, input, pool, 192)?,
        ])
    }

    fn blocks(&self, variant: Variant) -> Result<Vec<Vec<Branch>>, Error> {
        let mean = Pool::Mean { padding_counts: variant == Variant::Torchvision };
        let last = if variant == Variant::PytorchFid { Pool::Max { stride: 1 } } else { mean };
        let half = || Some(Pool::Max { stride: 2 });
        let stem = |name: &str, input, output, window, stride, padding| {
            self.padded(name, input, output, window, stride, [padding; 2])
        };
        let first = vec![
            stem("Conv2d_1a_3x3", 3, 32, SQUARE, 2, 0)?,
            stem("Conv2d_2a_3x3", 32, 32, SQUARE, 1, 0)?,
            stem("Conv2d_2b_3x3", 32, 64, SQUARE, 1, 1)?,
        ];
        let second = vec![stem("Conv2d_3b_1x1", 64, 80, POINT, 1, 0)?, stem("Conv2d_4a_3x3", 80, 192, SQUARE, 1, 0)?];
        Ok(vec![
            vec![Branch { chain: first, ..Branch::default() }],
            vec![Branch { pool: half(), chain: second, ..Branch::default() }],
            vec![Branch { pool: half(), ..Branch::default() }],
            self.a("Mixed_5b", 192, mean, 32)?,
            self.a("Mixed_5c", 256, mean, 64)?,
            self.a("Mixed_5d", 288, mean, 64)?,
            self.b("Mixed_6a", 288)?,
            self.c("Mixed_6b", mean, 128)?,
            self.c("Mixed_6c", mean, 160)?,
            self.c("Mixed_6d", mean, 160)?,
            self.c("Mixed_6e", mean, 192)?,
            self.d("Mixed_7a")?,
            self.e("Mixed_7b", 1280, mean)?,
            self.e("Mixed_7c", 2048, last)?,
        ])
    }
}
