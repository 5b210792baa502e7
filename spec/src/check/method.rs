//! Checks of the method: what it is made of, and what its loss needs.

use serde_json::Value;

use super::{Checks, experiment::blank};
use crate::{
    Experiment,
    experiment::{Method, Model, NormMode},
};

/// Looks at `model`, `trainer.loss` and `trainer.noise`.
pub(super) fn check(c: &mut Checks, e: &Experiment) {
    model(c, &e.model);
    geometry(c, &e.model);
    loss(c, e);
    norm(c, e);
    foreign(c, e);
}

fn model(c: &mut Checks, m: &Model) {
    let levels = m.channels.len();
    let fewest = if m.method == Method::Morphaeus { 2 } else { 1 };
    c.that(
        (fewest..=12).contains(&levels),
        "model.channels",
        format!("{levels} levels: there must be {fewest} to 12"),
        "",
    );
    for (i, channels) in m.channels.iter().enumerate() {
        let field = format!("model.channels.{i}");
        c.at_least(1, (*channels).into(), &field);
        c.at_most(8192, (*channels).into(), &field);
    }
    c.at_least(8, m.image_size.into(), "model.image_size");
    c.at_most(4096, m.image_size.into(), "model.image_size");
    let odd = |c: &mut Checks, value: u32, field: &str| {
        c.that(value % 2 == 1, field, format!("{value} is even: a window needs a middle"), "take an odd number");
    };
    odd(c, m.kernel_size, "model.kernel_size");
    c.at_most(31, m.kernel_size.into(), "model.kernel_size");
    c.at_least(1, m.latent.into(), "model.latent");
    c.at_most(65_536, m.latent.into(), "model.latent");
    c.that(m.negative_slope.is_finite(), "model.negative_slope", "it is no number", "");
    if m.method == Method::Morphaeus {
        c.at_least(1, m.refine_levels.into(), "model.refine_levels");
        c.that(
            (m.refine_levels as usize) < levels.max(1),
            "model.refine_levels",
            format!("{} levels to refine, but model.channels has {levels}", m.refine_levels),
            "refine fewer levels than there are: the coarsest has nothing to be joined with",
        );
    }
    c.at_least(1, m.refine_channels.into(), "model.refine_channels");
    c.at_most(8192, m.refine_channels.into(), "model.refine_channels");
    c.at_most(20, m.integration_steps.into(), "model.integration_steps");
}

/// What the image's size must be for the network's levels.
fn geometry(c: &mut Checks, m: &Model) {
    const FIELD: &str = "model.image_size";
    let (size, channels) = (m.image_size, m.channels.len() as u32);
    let halved = |c: &mut Checks, levels: u32| {
        if !(1..=12).contains(&levels) {
            return;
        }
        let unit = 1u32 << levels;
        let down = size / unit * unit;
        let near = if down == 0 { unit.to_string() } else { format!("{down} or {}", down + unit) };
        c.that(
            size.is_multiple_of(unit),
            FIELD,
            format!("{size} cannot be halved {levels} times, once for each level of the network"),
            &format!("{levels} levels need a multiple of {unit}: {near}; or take fewer model.channels"),
        );
    };
    if m.method.fields().contains(&"levels") {
        c.that(
            m.levels == 0 || (1..=channels + 1).contains(&m.levels),
            "model.levels",
            format!("{} levels, but model.channels has {channels}", m.levels),
            "as many as model.channels, fewer, or one more",
        );
        halved(c, m.levels());
    }
    match m.method {
        Method::Morphaeus => halved(c, channels),
        Method::Vae => {
            halved(c, channels);
            c.that(
                channels > 12 || size >> channels >= 2,
                FIELD,
                format!("{size} pixels halved {channels} times leave fewer than 2"),
                "take fewer model.channels; the paper's are [16, 32, 64, 256, 256]",
            );
        }
        Method::BetaVae => c.that(
            size.is_power_of_two(),
            FIELD,
            format!("{size} cannot be halved until 4 pixels are left"),
            "the β-VAE takes 8, 16, 32, 64, 128, …",
        ),
        Method::Dae => {
            halved(c, channels.saturating_sub(1));
            c.that(
                channels > 12 || size >> channels.saturating_sub(1) >= 2,
                FIELD,
                "its coarsest level has one pixel, which cannot be reflected at the border".to_owned(),
                "take fewer model.channels",
            );
        }
        Method::Aae => {
            c.that(
                matches!(size, 32 | 64 | 128),
                FIELD,
                format!("{size} does not fit the AAE's layers"),
                "it takes 32, 64 or 128",
            );
            c.that(
                channels == 1,
                "model.channels",
                format!(
                    "the AAE has one width, of which its layers have 1, 2 or 4 times as many; {channels} are given"
                ),
                "the paper's is [64]",
            );
        }
        Method::SiVae => c.that(
            channels <= 12 && size == 4 << channels,
            FIELD,
            format!("{size} pixels halved {channels} times, once for each of model.channels, are not 4"),
            "take one channel more for each time the size doubles: 128 has five",
        ),
        // Nothing but its levels.
        _ => {}
    }
}

fn loss(c: &mut Checks, e: &Experiment) {
    let loss = &e.trainer.loss;
    c.not_negative(loss.perceptual.weight, "trainer.loss.perceptual.weight");
    let weights = loss.perceptual.weights.as_deref().map(str::trim).filter(|w| !w.is_empty());
    c.that(
        loss.perceptual.weight <= 0.0 || weights.is_some(),
        "trainer.loss.perceptual.weight",
        format!("a weight of {} needs VGG-19's weights", loss.perceptual.weight),
        "set trainer.loss.perceptual.weights to torchvision's state dict (.pth or .safetensors, path or URL), or to \
         `random`, which is not the paper's loss; or set the weight to 0",
    );
    let m = &loss.morph;
    c.not_negative(m.weight, "trainer.loss.morph.weight");
    c.not_negative(m.beta, "trainer.loss.morph.beta");
    c.at_least(1, m.beta_epochs.into(), "trainer.loss.morph.beta_epochs");
    c.that(
        m.ncc_window % 2 == 1,
        "trainer.loss.morph.ncc_window",
        format!("{} is even: a window needs a middle", m.ncc_window),
        "take an odd number",
    );
    c.that(
        m.ncc_window <= e.model.image_size,
        "trainer.loss.morph.ncc_window",
        format!("a window of {} is wider than the image of {} (model.image_size)", m.ncc_window, e.model.image_size),
        "the paper's is 9",
    );
    let v = loss.vae.rec_log_std;
    c.that(v.abs() <= 20.0, "trainer.loss.vae.rec_log_std", format!("{v} is out of bounds"), "the paper's is 0");
    let k = &loss.capacity;
    for (value, field) in
        [(k.beta, "beta"), (k.gamma, "gamma"), (k.divergence_weight, "divergence_weight"), (k.max, "max")]
    {
        c.not_negative(value, &format!("trainer.loss.capacity.{field}"));
    }
    c.at_least(1, k.iterations, "trainer.loss.capacity.iterations");
    let i = &loss.intro;
    for (value, field) in
        [(i.beta_kl, "beta_kl"), (i.beta_rec, "beta_rec"), (i.beta_neg, "beta_neg"), (i.gamma_r, "gamma_r")]
    {
        c.not_negative(value, &format!("trainer.loss.intro.{field}"));
    }
    let n = &e.trainer.noise;
    c.not_negative(n.std, "trainer.noise.std");
    c.at_least(1, n.resolution.into(), "trainer.noise.resolution");
    c.at_most(4096, n.resolution.into(), "trainer.noise.resolution");
}

/// BatchNorm needs two values per channel, and a bottleneck of one pixel gives one per image.
fn norm(c: &mut Checks, e: &Experiment) {
    let (m, t) = (&e.model, &e.trainer);
    // Where levels are counted; the others' coarsest BatchNorm sees 4×4 pixels.
    let normed = m.method == Method::Morphaeus || m.method.fields().contains(&"levels");
    let pixel = normed && m.levels() <= 12 && m.image_size == 1 << m.levels();
    if m.norm_mode != NormMode::Batch || !pixel || t.world_size == 0 {
        return;
    }
    let alone = if m.sync { t.batch_size } else { t.batch_size / t.world_size };
    c.that(
        alone != 1,
        "trainer.batch_size",
        "BatchNorm would see a single value: the bottleneck has one pixel, and one image comes at a time".to_owned(),
        if m.sync { "take 2 or more" } else { "take 2 or more images per rank, or set model.sync: true" },
    );
}

/// Fields that only some methods have: where this one does not, a value of one's own would be passed over in silence.
fn foreign(c: &mut Checks, e: &Experiment) {
    let mut fields: Vec<&str> = Method::ALL.iter().flat_map(|m| m.fields()).copied().collect();
    fields.sort_unstable();
    fields.dedup();
    let (own, default) = (json(e), json(&blank()));
    for field in fields.into_iter().filter(|f| !e.model.method.fields().contains(f)) {
        let places = ["model", "trainer.loss", "trainer"].map(|part| format!("{part}.{field}"));
        for place in places {
            let at = |tree: &Value| tree.pointer(&format!("/{}", place.replace('.', "/"))).cloned();
            let method = e.model.method.name();
            c.that(
                at(&own) == at(&default),
                &place,
                format!("the method {method} has no use for it"),
                &format!("leave it out; those that have: {}", users(field)),
            );
        }
    }
}

fn users(field: &str) -> String {
    let names: Vec<&str> = Method::ALL.iter().filter(|m| m.fields().contains(&field)).map(|m| m.name()).collect();
    names.join(", ")
}

fn json(e: &Experiment) -> Value {
    serde_json::to_value(e).expect("invariant: an experiment has text keys only and is JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(method: &str, params: Value) -> String {
        let mut params: std::collections::BTreeMap<String, Value> = serde_json::from_value(params).unwrap();
        params.insert("model.method".into(), method.into());
        blank().with(&params).map_or_else(|why| why, |_| String::new())
    }

    #[test]
    fn every_method_has_its_geometry() {
        for (method, params, wanted) in [
            ("baseline", json!({}), ""),
            ("baseline", json!({"model.levels": 9}), "model.levels"),
            ("ae-s", json!({"model.channels": [32, 64, 128], "model.levels": 4}), ""),
            ("ae-s", json!({"model.channels": [32, 64], "model.levels": 3, "model.image_size": 100}), "multiple of 8"),
            ("vae", json!({}), "fewer than 2"),
            ("vae", json!({"model.channels": [16, 32, 64, 256, 256]}), ""),
            ("b-vae", json!({}), ""),
            ("b-vae", json!({"model.image_size": 96}), "8, 16, 32"),
            ("aae", json!({"model.channels": [64], "model.image_size": 256}), "32, 64 or 128"),
            ("aae", json!({"model.channels": [64, 64]}), "one width"),
            ("aae", json!({"model.channels": [64]}), ""),
            ("si-vae", json!({"model.channels": [64, 128, 256, 512, 512]}), ""),
            ("si-vae", json!({"model.channels": [64, 128, 256, 512]}), "are not 4"),
            ("dae", json!({"model.channels": [64, 128, 256, 512]}), ""),
            ("dae", json!({"model.channels": [4, 4, 4, 4, 4], "model.image_size": 16}), "reflected"),
        ] {
            let text = said(method, params.clone());
            assert_eq!(text.is_empty(), wanted.is_empty(), "{method} {params}: {text}");
            assert!(text.contains(wanted), "{method} {params}: {text}");
        }
    }

    #[test]
    fn what_a_method_has_no_use_for_is_not_passed_over() {
        let text = said("b-vae", json!({"model.channels": [8, 8], "trainer.loss.morph.beta": 1}));
        assert!(text.contains("model.channels") && text.contains("trainer.loss.morph"), "{text}");
        assert!(text.contains("morphaeus") && text.contains("b-vae has no use"), "{text}");
        let text = said("morphaeus", json!({"trainer.noise.std": 0.1}));
        assert!(text.contains("trainer.noise") && text.contains("dae"), "{text}");
    }

    #[test]
    fn names_are_unique_and_read_back() {
        for method in Method::ALL {
            assert_eq!(serde_json::from_value::<Method>(method.name().into()).unwrap(), *method);
            assert!(!method.title().is_empty());
        }
    }
}
