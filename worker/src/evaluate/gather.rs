//! What each rank measured of its images, brought together on every rank: a number and zeros are added, so that no bit depends on
//! the number of ranks.

use morph_scores::{PixelHistogram, Region};

use crate::{
    evaluate::measure::{COLUMNS, Row},
    rank::{failure::Failure, group::Group},
};

/// Numbers of a region: its box, its score, its area.
const REGION: usize = 6;

/// All images' numbers; this rank has measured those that are `Some`.
///
/// # Errors
/// When a peer is gone.
pub fn rows(group: &Group, mine: &[Option<Row>]) -> Result<Vec<Row>, Failure> {
    let absent = [None; COLUMNS];
    let numbers = || mine.iter().flat_map(|row| row.as_ref().unwrap_or(&absent));
    let mut values: Vec<f64> = numbers().map(|v| v.unwrap_or(0.0)).collect();
    let mut present: Vec<f64> = numbers().map(|v| f64::from(u8::from(v.is_some()))).collect();
    group.sum(&mut values)?;
    group.sum(&mut present)?;
    let rows = values.chunks_exact(COLUMNS).zip(present.chunks_exact(COLUMNS));
    Ok(rows.map(|(values, present)| std::array::from_fn(|i| (present[i] > 0.0).then_some(values[i]))).collect())
}

/// All images' regions; those of images that this rank has not looked at are empty.
///
/// # Errors
/// When a peer is gone.
pub fn regions(group: &Group, mine: &[Vec<Region>]) -> Result<Vec<Vec<Region>>, Failure> {
    let mut counts: Vec<f64> = mine.iter().map(|r| r.len() as f64).collect();
    group.sum(&mut counts)?;
    let counts: Vec<usize> = counts.into_iter().map(|n| n as usize).collect();
    let mut flat = vec![0.0; counts.iter().sum::<usize>() * REGION];
    let mut at = 0;
    for (regions, count) in mine.iter().zip(&counts) {
        for (k, r) in regions.iter().enumerate() {
            let [x, y, w, h] = r.rect;
            flat[at + k * REGION..][..REGION].copy_from_slice(&[x, y, w, h, r.score, r.area as f64]);
        }
        at += count * REGION;
    }
    group.sum(&mut flat)?;
    let mut all = flat.chunks_exact(REGION);
    let region = |v: &[f64]| Region { rect: [v[0], v[1], v[2], v[3]], score: v[4], area: v[5] as usize };
    Ok(counts.into_iter().map(|n| all.by_ref().take(n).map(region).collect()).collect())
}

/// The pixels that all ranks have counted.
///
/// # Errors
/// When a peer is gone.
pub fn pixels(group: &Group, mine: &PixelHistogram, scale: f64) -> Result<PixelHistogram, Failure> {
    let mut counts: Vec<f64> = mine.counts().into_iter().map(|n| n as f64).collect();
    group.sum(&mut counts)?;
    let counts: Vec<u64> = counts.into_iter().map(|n| n as u64).collect();
    Ok(PixelHistogram::from_counts(&counts, scale)?)
}
