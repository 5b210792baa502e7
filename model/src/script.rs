//! A method as TorchScript: what `reconstruct` computes on images, traced, with the weights inside. Any program with libtorch can run
//! the file, from Python by `torch.jit.load`.

use std::path::Path;

use tch::{CModule, Device, Kind, Tensor};

use crate::{Draws, Error, Method, Reconstruction};

/// How far what the file computes may be from what the method does: rounding, where libtorch fuses operations.
const TOLERANCE: f64 = 1e-5;

/// What is not drawn: exported methods take the mean of their codes.
#[derive(Debug)]
pub struct Means;

impl Draws for Means {
    fn normal(&mut self, _: &[i64], _: f64, _: &Tensor) -> Result<Tensor, Error> {
        Err(Error::Torch("the method draws random numbers in scoring, which a file cannot (model.sampling)".into()))
    }

    fn below(&mut self, _: u64) -> Result<u64, Error> {
        self.normal(&[], 1.0, &Tensor::new()).map(|_| 0)
    }
}

/// What an exported method gives, one plane after the other `[B, planes, H, W]`, and their names: the reconstruction, and of a method
/// that deforms also the prior, the deformation (rows, columns), and the image deformed back. (A traced function has one result.)
///
/// # Errors
/// libtorch's.
pub fn planes(r: Reconstruction) -> Result<(Vec<&'static str>, Tensor), Error> {
    let Reconstruction { prior, reconstruction, deformation, reversed, .. } = r;
    let Some(deformation) = deformation else { return Ok((vec!["reconstruction"], reconstruction)) };
    let mut names = vec!["reconstruction", "prior", "deformation_rows", "deformation_columns"];
    let mut all = vec![reconstruction, prior, deformation];
    if let Some(reversed) = reversed {
        names.push("reversed");
        all.push(reversed);
    }
    Ok((names, Tensor::f_cat(&all, 1)?))
}

/// Writes the method, for images of `side` × `side` pixels and batches of any size, to `path`; the names of the planes that it
/// gives. The file is read back and compared with the method before this returns. The method's parameters are constants
/// afterwards.
///
/// # Errors
/// libtorch's, or when the file computes something else.
pub fn write(method: &dyn Method, side: i64, path: &Path) -> Result<Vec<&'static str>, Error> {
    for (_, parameter) in method.parameters() {
        let _ = parameter.set_requires_grad(false);
    }
    let run = |x: &Tensor| method.reconstruct(x, &mut Means).and_then(planes);
    let mut traced = None;
    let module = CModule::create_by_tracing("Morph", "forward", &[images(2, side)], &mut |inputs| {
        let (names, given) = match run(&inputs[0]) {
            Ok((names, t)) => (Ok(names), vec![t]),
            Err(e) => (Err(e), Vec::new()),
        };
        traced = Some(names);
        given
    });
    let names = traced.unwrap_or_else(|| Err(Error::Torch("nothing was traced".into())))?;
    module?.save(path)?;
    let read = CModule::load(path)?;
    for batch in [1, 3] {
        let x = images(batch, side);
        compare(&read.forward_ts(&[&x])?, &run(&x)?.1)?;
    }
    Ok(names)
}

/// Images with something in them, always the same.
fn images(batch: i64, side: i64) -> Tensor {
    let t = Tensor::arange(batch * side * side, (Kind::Double, Device::Cpu));
    (((t * 0.7).sin() + 1.0) / 2.0).to_kind(Kind::Float).view([batch, 1, side, side])
}

/// Refuses what is not nearly the same.
fn compare(got: &Tensor, wanted: &Tensor) -> Result<(), Error> {
    if got.size() != wanted.size() {
        return Err(Error::Torch(format!("the file gives {:?} instead of {:?}", got.size(), wanted.size())));
    }
    let apart = (got - wanted).abs().max().to_kind(Kind::Double).double_value(&[]);
    let scale = wanted.abs().max().to_kind(Kind::Double).double_value(&[]).max(1.0);
    if apart.is_nan() || apart > TOLERANCE * scale {
        return Err(Error::Torch(format!("the file computes what is apart from the method's by {apart:e}")));
    }
    Ok(())
}
