//! JPEG-LS (ISO 14495-1, ITU-T T.87), lossless and near-lossless, one component of 2 to 16 bits. Names are the standard's.

use crate::readers::{MOST_PIXELS, Values};

/// How many pixels a bit of a run stands for, by the state of the run (T.87 A.2.1).
const RUNS: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Contexts of gradients; those of the ends of runs are kept beside them.
const CONTEXTS: usize = 365;

/// Decodes a stream.
pub(super) fn decode(stream: &[u8]) -> Result<Values, String> {
    let (coding, data) = header(stream).map_err(|why| format!("no readable JPEG-LS: {why}"))?;
    let pixels = coding.lines(data).ok_or("no readable JPEG-LS: the file is cut off")?;
    Ok(if coding.precision <= 8 {
        Values::Bytes(pixels.iter().map(|v| *v as u8).collect())
    } else {
        Values::Words(pixels)
    })
}

/// What the markers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Coding {
    width: usize,
    height: usize,
    precision: u32,
    near: i32,
    maxval: i32,
    thresholds: [i32; 3],
    reset: i32,
}

fn header(stream: &[u8]) -> Result<(Coding, &[u8]), String> {
    let mut rest = stream.strip_prefix(&[0xff, 0xd8]).ok_or("it does not begin as one")?;
    let mut coding = Coding::default();
    let mut preset: Option<[i32; 5]> = None;
    loop {
        while let [0xff, 0xff, ..] = rest {
            rest = &rest[1..];
        }
        let [0xff, marker, high, low, after @ ..] = rest else { return Err("its header is cut off".to_owned()) };
        let length = usize::from(u16::from_be_bytes([*high, *low])).checked_sub(2).ok_or("a segment has no length")?;
        let (segment, after) = after.split_at_checked(length).ok_or("its header is cut off")?;
        match (*marker, segment) {
            (0xf7, [precision, y1, y0, x1, x0, 1, _, _, _]) => {
                coding.precision = u32::from(*precision);
                coding.height = usize::from(u16::from_be_bytes([*y1, *y0]));
                coding.width = usize::from(u16::from_be_bytes([*x1, *x0]));
            }
            (0xf7, _) => return Err("it has several components".to_owned()),
            (0xf8, [1, values @ ..]) => {
                let mut numbers = values.chunks_exact(2).map(|b| i32::from(u16::from_be_bytes([b[0], b[1]])));
                let mut next = || numbers.next().ok_or("its presets are cut off");
                preset = Some([next()?, next()?, next()?, next()?, next()?]);
            }
            (0xf8, _) => return Err("it has mapping tables, which are not read".to_owned()),
            (0xdd, interval) if interval.iter().any(|b| *b != 0) => {
                return Err("it has restart intervals, which are not read".to_owned());
            }
            (0xda, [1, _, mapping, near, interleave, point]) => {
                if (*mapping, *interleave, *point) != (0, 0, 0) {
                    return Err("it is mapped, interleaved or shifted, which is not read".to_owned());
                }
                return coding.with(i32::from(*near), preset).map(|coding| (coding, after));
            }
            (0xda, _) => return Err("its scan makes no sense".to_owned()),
            _ => {}
        }
        rest = after;
    }
}

fn clamp(i: i32, low: i32, high: i32) -> i32 {
    if i > high || i < low { low } else { i }
}

impl Coding {
    /// With the parameters of the scan, and the defaults of T.87 C.2.4.1.1.
    fn with(mut self, near: i32, preset: Option<[i32; 5]>) -> Result<Self, String> {
        let Self { width, height, precision, .. } = self;
        if width == 0 || height == 0 || (width * height) as u64 > MOST_PIXELS || !(2..=16).contains(&precision) {
            return Err(format!("{height}x{width} pixels of {precision} bits make no sense"));
        }
        let preset = preset.unwrap_or_default();
        let whole = (1 << precision) - 1;
        let maxval = if preset[0] == 0 { whole } else { preset[0] };
        if maxval > whole || near > (maxval / 2).min(255) {
            return Err(format!("near {near} of {maxval} makes no sense"));
        }
        let [mut t1, mut t2, mut t3] = if maxval >= 128 {
            let factor = (maxval.min(4095) + 128) / 256;
            [factor + 2 + 3 * near, 4 * factor + 3 + 5 * near, 17 * factor + 4 + 7 * near]
        } else {
            let factor = 256 / (maxval + 1);
            [(3 / factor + 3 * near).max(2), (7 / factor + 5 * near).max(3), (21 / factor + 7 * near).max(4)]
        };
        t1 = clamp(t1, near + 1, maxval);
        t2 = clamp(t2, t1, maxval);
        t3 = clamp(t3, t2, maxval);
        let or = |given: i32, default: i32| if given == 0 { default } else { given };
        self.thresholds = [or(preset[1], t1), or(preset[2], t2), or(preset[3], t3)];
        self.reset = or(preset[4], 64);
        let [t1, t2, t3] = self.thresholds;
        if t1 <= near || t2 < t1 || t3 < t2 || t3 > maxval || self.reset < 3 {
            return Err("its thresholds make no sense".to_owned());
        }
        (self.near, self.maxval) = (near, maxval);
        Ok(self)
    }

    /// The image that is coded in `data`; none when it ends too early.
    fn lines(&self, data: &[u8]) -> Option<Vec<u16>> {
        let mut scan = Scan::new(*self, data);
        let mut pixels = Vec::with_capacity(self.width * self.height);
        // One value more on both sides: what lies beyond the edges (T.87 A.2.1).
        let mut above = vec![0i32; self.width + 2];
        let mut line = above.clone();
        for _ in 0..self.height {
            above[self.width + 1] = above[self.width];
            line[0] = above[1];
            scan.line(&above, &mut line)?;
            pixels.extend(line[1..=self.width].iter().map(|v| *v as u16));
            std::mem::swap(&mut above, &mut line);
        }
        Some(pixels)
    }
}

/// Statistics of a context.
#[derive(Debug, Clone, Copy)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

/// Statistics of the ends of runs.
#[derive(Debug, Clone, Copy)]
struct End {
    a: i32,
    n: i32,
    negative: i32,
}

struct Scan<'a> {
    coding: Coding,
    bits: Bits<'a>,
    contexts: Vec<Context>,
    ends: [End; 2],
    /// State of the run (RUNindex).
    run: usize,
    /// Number of quantised errors, and the bits that they need.
    range: i32,
    qbpp: u32,
    limit: u32,
    step: i32,
}

impl<'a> Scan<'a> {
    fn new(coding: Coding, data: &'a [u8]) -> Self {
        let step = 2 * coding.near + 1;
        let range = (coding.maxval + 2 * coding.near) / step + 1;
        let bits_of = |n: i32| 32 - (n - 1).leading_zeros();
        let bpp = bits_of(coding.maxval + 1).max(2);
        let a = ((range + 32) / 64).max(2);
        Self {
            coding,
            bits: Bits { data, at: 0, held: 0, count: 0 },
            contexts: vec![Context { a, b: 0, c: 0, n: 1 }; CONTEXTS],
            ends: [End { a, n: 1, negative: 0 }; 2],
            run: 0,
            range,
            qbpp: bits_of(range),
            limit: 2 * (bpp + bpp.max(8)),
            step,
        }
    }

    /// Decodes a line; both have a value more on both sides.
    fn line(&mut self, above: &[i32], line: &mut [i32]) -> Option<()> {
        let width = self.coding.width;
        let mut x = 1;
        while x <= width {
            let (ra, rb, rc, rd) = (line[x - 1], above[x], above[x - 1], above[x + 1]);
            let near = self.coding.near;
            let gradients = [rd - rb, rb - rc, rc - ra];
            if gradients.iter().any(|d| d.abs() > near) {
                line[x] = self.regular(gradients, ra, rb, rc)?;
                x += 1;
                continue;
            }
            let from = x;
            loop {
                if self.bits.take(1)? == 0 {
                    break;
                }
                let length = 1usize << RUNS[self.run];
                let whole = length <= width + 1 - x;
                x += length.min(width + 1 - x);
                if whole && self.run < 31 {
                    self.run += 1;
                }
                if x > width {
                    break;
                }
            }
            if x > width {
                line[from..=width].fill(ra);
                return Some(());
            }
            x += self.bits.take(RUNS[self.run])? as usize;
            if x > width {
                return None;
            }
            line[from..x].fill(ra);
            line[x] = self.end_of_run(ra, above[x])?;
            self.run = self.run.saturating_sub(1);
            x += 1;
        }
        Some(())
    }

    fn quantise(&self, d: i32) -> i32 {
        let [t1, t2, t3] = self.coding.thresholds;
        let size = match d.abs() {
            d if d <= self.coding.near => 0,
            d if d < t1 => 1,
            d if d < t2 => 2,
            d if d < t3 => 3,
            _ => 4,
        };
        if d < 0 { -size } else { size }
    }

    fn regular(&mut self, gradients: [i32; 3], ra: i32, rb: i32, rc: i32) -> Option<i32> {
        let [q1, q2, q3] = gradients.map(|d| self.quantise(d));
        let q = 81 * q1 + 9 * q2 + q3;
        let sign = if q < 0 { -1 } else { 1 };
        let at = q.unsigned_abs() as usize;
        let Context { a, b, c, n } = self.contexts[at];
        let median = if rc >= ra.max(rb) {
            ra.min(rb)
        } else if rc <= ra.min(rb) {
            ra.max(rb)
        } else {
            ra + rb - rc
        };
        let predicted = (median + sign * c).clamp(0, self.coding.maxval);
        let k = golomb(a, n)?;
        let mapped = self.golomb_limited(k, self.limit)?;
        // T.87 A.5.2
        let error = if self.coding.near == 0 && k == 0 && 2 * b <= -n {
            if mapped & 1 == 1 { (mapped - 1) / 2 } else { -(mapped / 2) - 1 }
        } else if mapped & 1 == 0 {
            mapped / 2
        } else {
            -((mapped + 1) / 2)
        };
        self.contexts[at] = self.updated(Context { a, b, c, n }, error);
        Some(self.reconstruct(predicted, sign * error))
    }

    /// T.87 A.6
    fn updated(&self, context: Context, error: i32) -> Context {
        let Context { mut a, mut b, mut c, mut n } = context;
        b += error * self.step;
        a += error.abs();
        if n == self.coding.reset {
            (a, b, n) = (a >> 1, b >> 1, n >> 1);
        }
        n += 1;
        if b <= -n {
            c = (c - 1).max(-128);
            b = (b + n).max(1 - n);
        } else if b > 0 {
            c = (c + 1).min(127);
            b = (b - n).min(0);
        }
        Context { a, b, c, n }
    }

    /// The value that ends a run (T.87 A.7.2).
    fn end_of_run(&mut self, ra: i32, rb: i32) -> Option<i32> {
        let same = (ra - rb).abs() <= self.coding.near;
        let kind = i32::from(same);
        let End { mut a, mut n, mut negative } = self.ends[usize::from(same)];
        let k = golomb(if same { a + (n >> 1) } else { a }, n)?;
        let mapped = self.golomb_limited(k, self.limit - RUNS[self.run] - 1)?;
        let doubled = mapped + kind;
        let odd = doubled & 1 == 1;
        let size = (doubled + i32::from(odd)) / 2;
        let error = if (k != 0 || 2 * negative >= n) == odd { -size } else { size };
        if error < 0 {
            negative += 1;
        }
        a += (mapped + 1 - kind) >> 1;
        if n == self.coding.reset {
            (a, n, negative) = (a >> 1, n >> 1, negative >> 1);
        }
        n += 1;
        self.ends[usize::from(same)] = End { a, n, negative };
        let sign = if !same && ra > rb { -1 } else { 1 };
        Some(self.reconstruct(if same { ra } else { rb }, sign * error))
    }

    fn reconstruct(&self, predicted: i32, error: i32) -> i32 {
        let (near, maxval, whole) = (self.coding.near, self.coding.maxval, self.range * self.step);
        let value = predicted + error * self.step;
        let value = if value < -near {
            value + whole
        } else if value > maxval + near {
            value - whole
        } else {
            value
        };
        value.clamp(0, maxval)
    }

    /// T.87 A.5.3
    fn golomb_limited(&mut self, k: u32, limit: u32) -> Option<i32> {
        let longest = limit.checked_sub(self.qbpp + 1)?;
        let mut zeros = 0;
        while self.bits.take(1)? == 0 {
            zeros += 1;
            if zeros > longest {
                return None;
            }
        }
        let value = if zeros < longest { (zeros << k) | self.bits.take(k)? } else { self.bits.take(self.qbpp)? + 1 };
        // No error is larger than the range; the double of one has a bit more.
        i32::try_from(value).ok().filter(|v| *v <= 2 * self.range + 2)
    }
}

/// The parameter of a Golomb code: how often `n` is doubled to reach `a`.
fn golomb(a: i32, n: i32) -> Option<u32> {
    (0..24).find(|k| n << k >= a)
}

/// Bits behind each other; after a byte of ones the next has seven (T.87 A.1), and a marker ends them.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl Bits<'_> {
    /// The next `n` bits, at most 24; none when there are not so many.
    fn take(&mut self, n: u32) -> Option<u32> {
        while self.count < n {
            let byte = *self.data.get(self.at)?;
            let stuffed = self.at > 0 && self.data[self.at - 1] == 0xff;
            if stuffed && byte & 0x80 != 0 {
                return None;
            }
            let new = if stuffed { 7 } else { 8 };
            self.held = self.held << new | u64::from(byte);
            self.count += new;
            self.at += 1;
        }
        self.count -= n;
        Some((self.held >> self.count) as u32 & ((1u64 << n) - 1) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of T.87 H.3: 4 x 4 pixels of 8 bit, without loss.
    #[test]
    fn the_example_of_the_standard() {
        let stream = [
            0xff, 0xd8, 0xff, 0xf7, 0x00, 0x0b, 0x08, 0x00, 0x04, 0x00, 0x04, 0x01, 0x01, 0x11, 0x00, 0xff, 0xda, 0x00,
            0x08, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0xc0, 0x00, 0x00, 0x6c, 0x80, 0x20, 0x8e, 0x01, 0xc0, 0x00, 0x00,
            0x57, 0x40, 0x00, 0x00, 0x6e, 0xe6, 0x00, 0x00, 0x01, 0xbc, 0x18, 0x00, 0x00, 0x05, 0xd8, 0x00, 0x00, 0x91,
            0x60, 0xff, 0xd9,
        ];
        let wanted = [0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145];
        assert_eq!(decode(&stream), Ok(Values::Bytes(wanted.to_vec())));
        for cut in 0..stream.len() - 4 {
            assert!(decode(&stream[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn whatever_the_bytes_are_it_ends() {
        let mut rng = morph_spec::Rng::keyed(3, "jpeg-ls", 0);
        let mut head = vec![0xff, 0xd8, 0xff, 0xf7, 0, 11, 16, 0, 40, 0, 40, 1, 1, 0x11, 0];
        head.extend([0xff, 0xda, 0, 8, 1, 1, 0, 3, 0, 0]);
        for _ in 0..2000 {
            let noise: Vec<u8> = (0..200).map(|_| rng.next_u64() as u8 & 0x7f).collect();
            drop(decode(&[&head[..], &noise].concat()));
        }
    }
}
