//! `model`: the published code's classes as methods.

use super::{Import, Lines, Section};
use crate::{
    experiment::Method,
    nearest::{nearest, one_of},
};

/// The classes that are known.
const CLASSES: [&str; 8] =
    ["AAE", "BetaVAE_H", "ConvAutoEncoder", "DenseConvAutoEncoderBaur", "MorphAEus", "SoftIntroVAE", "UNet", "VAE"];
/// Why BatchNorm is frozen.
const FROZEN: &str = "the code trains in evaluation mode; `batch` mends it";

/// A network.
pub(super) struct Model {
    pub(super) method: Method,
    pub(super) lines: Lines,
}

impl Import {
    pub(super) fn model(&mut self, mut model: Section) -> Option<Model> {
        let here = model.here();
        let module = self.text(&mut model, "module_name").unwrap_or_default();
        let Some((at, class)) = self.text_at(&mut model, "class_name") else {
            self.problem(here, "model.class_name", "`class_name` is missing: it says which network", "");
            return None;
        };
        let mut params = self.section(&mut model, "params");
        let built = match class.as_str() {
            "MorphAEus" => self.convolutional(Method::Morphaeus, &mut params),
            "ConvAutoEncoder" => self.convolutional(Method::Baseline, &mut params),
            "DenseConvAutoEncoderBaur" => self.convolutional(Method::AeD, &mut params),
            "VAE" => self.vae(&mut params),
            "BetaVAE_H" => self.beta_vae(&mut params),
            "UNet" => self.unet(&mut params),
            "AAE" => self.aae(&mut params),
            "SoftIntroVAE" => self.soft_intro(&mut params),
            _ => {
                let whole = if module.is_empty() { class.clone() } else { format!("{module}.{class}") };
                let help = nearest(&class, CLASSES).map_or_else(
                    || format!("those that are known: {}", one_of(&CLASSES)),
                    |k| format!("did you mean `{k}`?"),
                );
                self.problem(at, "model.class_name", format!("the class {whole} is not known here"), &help);
                return None;
            }
        };
        self.leftovers(params);
        self.leftovers(model);
        let (method, lines) = built;
        Some(Model { method, lines })
    }

    /// MorphAEus and the convolutional auto-encoders. A `ConvAutoEncoder` with transposed convolutions is AE-S.
    fn convolutional(&mut self, method: Method, params: &mut Section) -> (Method, Lines) {
        let morph = method == Method::Morphaeus;
        self.only(params, "in_channels", "1", "images are grey");
        self.only(params, "out_ch", "1", "images are grey");
        self.only(params, "norm", "batch", "networks have BatchNorm");
        self.only(params, "act_final", "sigmoid", "the last activation is");
        self.only(params, "bottleneck", "false", "there is one bottleneck");
        self.only(params, "skip", "false", "there are no skip connections");
        let channels = self.needed(params, "channels");
        let at = params.at("strides");
        let strides = self.needed(params, "strides");
        let path = params.path_of("strides");
        if let Some(stride) = strides.iter().find(|s| **s != 2) {
            self.problem(
                at,
                &path,
                format!("a stride of {stride} is not trained here"),
                "every level halves the image",
            );
        }
        let (levels, widths) = (strides.len(), channels.len());
        if levels != widths && (morph || levels != widths + 1) {
            let message = format!("{levels} strides for {widths} channels");
            self.problem(
                at,
                &path,
                message,
                if morph { "as many as channels" } else { "as many as channels, or one more" },
            );
        }
        let kernel = self.int(params, "kernel_size", if method == Method::AeD { 5 } else { 3 });
        let mut lines = Lines::default();
        lines.put(format!("channels: {channels:?}"));
        if levels != widths {
            lines.put(format!("levels: {levels}"));
        }
        lines.put(format!("kernel_size: {kernel}"));
        let (mode_at, mode_path) = (params.at("deconv_mode"), params.path_of("deconv_mode"));
        let mode = self.text(params, "deconv_mode").unwrap_or_else(|| "upsample".to_owned());
        let method = match (mode.as_str(), method) {
            ("stride", method) => method,
            ("trans", Method::Baseline) => Method::AeS,
            ("trans", Method::AeD) => Method::AeD,
            _ => {
                let help = if morph { "stride" } else { "stride, or trans" };
                self.problem(mode_at, &mode_path, format!("`{mode}` is not trained here"), &format!("what is: {help}"));
                method
            }
        };
        if !morph {
            lines.put(format!("upsampling: {}", if mode == "trans" { "transposed" } else { "bilinear" }));
        }
        match self.text(params, "act").as_deref() {
            Some("relu") => lines.put("activation: relu"),
            None | Some("leakyrelu") => {
                lines.put("activation: leaky_relu");
                lines.comment("negative_slope: 1", "LeakyReLU(True): the identity; 0.01 mends it");
            }
            // The code takes whatever it does not know for Swish.
            Some(_) => lines.put("activation: swish"),
        }
        if morph {
            self.side(params, "inshape");
            lines.put(format!("refine_levels: {}", self.int(params, "nr_ref_channels", 2)));
            self.only(params, "bidir", "true", "the image is deformed back, too");
        }
        if method == Method::AeD {
            lines.comment("latent: 128", "the class has it built in");
        }
        lines.comment("norm_mode: frozen", FROZEN);
        (method, lines)
    }

    fn vae(&mut self, params: &mut Section) -> (Method, Lines) {
        self.side(params, "input_size");
        let mut lines = Lines::default();
        lines.put(format!("channels: {:?}", self.needed(params, "h_size")));
        lines.put(format!("latent: {}", self.int(params, "z_dim", 256)));
        lines.comment("sampling: never", "the code trains in evaluation mode; `training` mends it");
        (Method::Vae, lines)
    }

    fn beta_vae(&mut self, params: &mut Section) -> (Method, Lines) {
        self.only(params, "nc", "1", "images are grey");
        let path = params.path_of("additional_layer");
        let (at, additional) = self.flag(params, "additional_layer", true);
        // The class is made for one size or the other.
        self.sizes.push((at, path, if additional { 128 } else { 64 }));
        let mut lines = Lines::default();
        lines.put(format!("latent: {}", self.int(params, "z_dim", 32)));
        lines.comment("sampling: always", "also in validation and scoring; `training` mends it");
        (Method::BetaVae, lines)
    }

    fn unet(&mut self, params: &mut Section) -> (Method, Lines) {
        self.only(params, "in_channels", "1", "images are grey");
        self.only(params, "n_classes", "1", "images are grey");
        self.only(params, "norm", "group", "the U-Net has GroupNorm");
        self.only(params, "up_mode", "upconv", "it rises by transposed convolutions");
        let path = params.path_of("padding");
        let (at, padded) = self.flag(params, "padding", false);
        if !padded {
            self.problem(at, &path, "without padding the image would become smaller", "padding: True");
        }
        let (at, depth) = (params.at("depth"), self.int(params, "depth", 3));
        let width = self.int(params, "wf", 7);
        if !(1..=12).contains(&depth) || width > 12 {
            self.problem(
                at,
                "model.params.depth",
                format!("{depth} levels from 2^{width} channels make no network"),
                "",
            );
            return (Method::Dae, Lines::default());
        }
        let channels: Vec<u64> = (0..depth).map(|i| 1 << (width + i)).collect();
        let mut lines = Lines::default();
        lines.comment(format!("channels: {channels:?}"), &format!("2^{width} and doubled, depth {depth}"));
        (Method::Dae, lines)
    }

    fn aae(&mut self, params: &mut Section) -> (Method, Lines) {
        self.only(params, "channels", "1", "images are grey");
        self.only(params, "cross_batch", "false", "codes are judged one by one");
        params.drop(&["batchSize"]);
        let extra = self.int_at(params, "extra_layers");
        let path = params.path_of("extra_layers");
        let (at, extra) = extra.unwrap_or((params.here(), 0));
        if extra > 2 {
            self.problem(
                at,
                &path,
                format!("{extra} extra layers: there are none, 1 or 2"),
                "for 32, 64 or 128 pixels",
            );
        } else {
            self.sizes.push((at, path, 32 << extra));
        }
        let mut lines = Lines::default();
        lines.comment(format!("channels: [{}]", self.int(params, "d", 64)), "its layers have 1, 2 or 4 times as many");
        lines.put(format!("latent: {}", self.int(params, "z_dim", 256)));
        lines.comment("norm_mode: batch", "its trainer alone trains in training mode");
        lines.comment("sync: false", "each rank its own statistics, as under DDP; true mends it");
        (Method::Aae, lines)
    }

    fn soft_intro(&mut self, params: &mut Section) -> (Method, Lines) {
        self.only(params, "cdim", "1", "images are grey");
        self.only(params, "conditional", "false", "nothing is conditioned on");
        params.drop(&["cond_dim"]);
        let path = params.path_of("image_size");
        let (at, size) = self.int_at(params, "image_size").unwrap_or((params.here(), 128));
        self.sizes.push((at, path, size));
        let mut lines = Lines::default();
        let channels = match self.ints(params, "channels") {
            Some((_, channels)) => channels,
            None => vec![64, 128, 256, 512, 512],
        };
        lines.put(format!("channels: {channels:?}"));
        lines.put(format!("latent: {}", self.int(params, "zdim", 128)));
        lines.comment("sampling: always", "also in validation and scoring; `training` mends it");
        lines.comment("expand_equal: true", "`512 is not 512`: convolutions more; false mends it");
        lines.comment("norm_mode: frozen", FROZEN);
        (Method::SiVae, lines)
    }
}
