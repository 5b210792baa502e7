//! Replays what was recorded from the paper's own code: forward, losses, gradients, parameters after Adam steps. The layout
//! of a case and how to compare are those of the golden vectors' README; bounds here are the README's.

pub(crate) mod case;
mod class;
mod report;
mod steps;

use std::path::Path;

use morph_checkpoint::Tensors;
use tch::{Device, Kind};

use crate::{Error, from_data};

pub use report::{Report, Section};

use case::Case;

/// Replays the case in the folder `dir` on `device`; `inputs.safetensors` and the VGG weights lie beside that folder.
///
/// # Errors
/// [`Error::Golden`] when the case cannot be read or its method is not implemented.
pub fn run(dir: &Path, device: Device) -> Result<Report, Error> {
    run_steps(dir, device, steps::STEPS)
}

/// As [`run`], but only the first `steps` of the training steps.
///
/// # Errors
/// As [`run`].
pub fn run_steps(dir: &Path, device: Device, steps: usize) -> Result<Report, Error> {
    let case = Case::read(dir, device)?;
    let mut report = Report { case: case.name.clone(), sections: Vec::new() };
    if let Some(recorded) = case.tensors("forward.safetensors")? {
        forward(&case, &recorded, &mut report)?;
    }
    for variant in ["asrun", "train"] {
        if let Some(recorded) = case.tensors(&format!("steps_{variant}.safetensors"))? {
            steps::replay(&case, variant, &recorded, steps, &mut report)?;
        }
    }
    if report.sections.is_empty() {
        return Err(Error::Golden(format!("{}: nothing is recorded there", dir.display())));
    }
    Ok(report)
}

/// README: forward rtol 1e-5, atol 2e-5; 1e-4 for what is sampled with large flows; and no closer than twice what the reference's
/// own f32 is from its f64 there.
fn forward_bound(case: &Case, name: &str, flow: f64) -> f64 {
    let sampled = name.ends_with(".y") || name.ends_with("x_reversed") || name.contains("registration");
    let bound: f64 = if flow > 1.0 && sampled { 1e-4 } else { 2e-5 };
    let noise = case.meta["forward_noise_f64"][name]["maxabs"].as_f64().unwrap_or(0.0);
    bound.max(2.0 * noise)
}

fn forward(case: &Case, recorded: &Tensors, report: &mut Report) -> Result<(), Error> {
    let x = case.batch(0, Kind::Float)?;
    for mode in ["eval", "train"] {
        let mut section = Section::new(&format!("forward/{mode}"));
        let method = case.method(mode, Kind::Float)?;
        let mut draws = case.draws(recorded, &format!("{mode}."))?;
        let results = method.outputs(&x, mode == "train", &mut draws)?;
        let displacement = results.iter().find(|(name, _)| *name == "registration.deformation");
        let flow = displacement.map_or(0.0, |(_, d)| d.abs().max().double_value(&[]));
        for (name, tensor) in &results {
            let name = format!("{mode}.{name}");
            let Some(want) = recorded.get(&name) else { continue };
            let want = from_data(want, Device::Cpu)?;
            let got = tensor.narrow(0, 0, want.size()[0]).to_device(Device::Cpu);
            section.close(&name, &got, &want, 1e-5, forward_bound(case, &name, flow));
        }
        for name in recorded.keys() {
            let known =
                |n: &str| results.iter().any(|(r, _)| *r == n) || n.starts_with("buf.") || n.starts_with("noise.");
            if name.strip_prefix(&format!("{mode}.")).is_some_and(|n| !known(n)) {
                section.failures.push(format!("{name} is recorded and was not computed"));
            }
        }
        for (name, tensor) in method.buffers() {
            let Some(want) = recorded.get(&format!("{mode}.buf.{name}")) else { continue };
            let want = from_data(want, Device::Cpu)?;
            let got = tensor.to_device(Device::Cpu).to_kind(Kind::Float);
            section.close(&name, &got, &want.to_kind(Kind::Float), 1e-5, 2e-5);
        }
        report.sections.extend(section.finish());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::tests::path;

    #[test]
    fn a_changed_weight_is_noticed() {
        tch::set_num_threads(1);
        let Some(dir) = path("morphaeus_small_trained") else { return };
        let mut case = Case::read(&dir, Device::Cpu).unwrap();
        let recorded = case.tensors("forward.safetensors").unwrap().unwrap();
        let verdict = |case: &Case| {
            let mut report = Report { case: String::new(), sections: Vec::new() };
            forward(case, &recorded, &mut report).unwrap();
            report.passed()
        };
        assert!(verdict(&case));
        let tensor = case.weights.get_mut("decoder.conv__decode_3.weight").unwrap();
        let value = f32::from_le_bytes(tensor.bytes[..4].try_into().unwrap());
        tensor.bytes[..4].copy_from_slice(&(value + 0.01).to_le_bytes());
        assert!(!verdict(&case));
    }

    #[test]
    fn what_is_not_a_number_keeps_no_bound() {
        let mut section = Section::new("s");
        let number = |v: f64| Tensor::from_slice(&[1.0, v]);
        section.close("equal", &number(2.0), &number(2.0), 1e-5, 0.0);
        assert!(section.failures.is_empty());
        section.close("nan", &number(f64::NAN), &number(2.0), 1e-5, 1e-5);
        section.close("shape", &number(2.0).view([2, 1]), &number(2.0), 1.0, 1.0);
        section.close("far", &number(2.1), &number(2.0), 1e-5, 1e-5);
        assert_eq!(section.failures.len(), 3, "{:?}", section.failures);
        assert!(!Report { case: String::new(), sections: Vec::new() }.passed(), "nothing compared is nothing shown");
    }
}
