//! One plane of an array, whose dimensions are in the order of the file: the last varies fastest.

use morph_spec::dataset::Slice;

use super::MOST_PIXELS;

/// Where a plane lies in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plane {
    /// Rows and columns.
    pub rows: usize,
    pub columns: usize,
    /// Elements from the beginning to the first, from a row to the next, from a column to the next.
    pub start: usize,
    pub down: usize,
    pub across: usize,
}

/// The plane of an array of `shape` (slowest first) that `slice` cuts out; its axis counts as the user's does, which is what
/// `axis` says. Dimensions of 1 do not count.
pub(super) fn plane(shape: &[u64], slice: Option<Slice>, axis: impl Fn(u32) -> usize) -> Result<Plane, String> {
    let text = || shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
    let mut strides = vec![1u64; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1].checked_mul(shape[i + 1]).ok_or_else(|| format!("{} makes no sense", text()))?;
    }
    let mut left: Vec<usize> = (0..shape.len()).filter(|i| shape[*i] != 1).collect();
    let mut start = 0;
    if left.len() == 3 {
        let slice = slice.ok_or_else(|| format!("it has {} values: source.slice must say which plane", text()))?;
        let cut = axis(slice.axis);
        let len = shape.get(cut).copied().unwrap_or(0);
        let index = slice.index.map_or(len / 2, u64::from);
        if !left.contains(&cut) || index >= len {
            return Err(format!("it has {} values, and no plane {index} on axis {}", text(), slice.axis));
        }
        left.retain(|i| *i != cut);
        start = index.checked_mul(strides[cut]).ok_or_else(|| format!("{} makes no sense", text()))?;
    }
    // A line of pixels is an image too, if there are two dimensions at all.
    while left.len() < 2 {
        let Some(one) = (0..shape.len()).find(|i| !left.contains(i)) else { break };
        left.push(one);
        left.sort_unstable();
    }
    let [down, across] = left[..] else { return Err(format!("it has {} values: that is no image", text())) };
    let (rows, columns) = (shape[down], shape[across]);
    if rows == 0 || columns == 0 || rows.checked_mul(columns).is_none_or(|n| n > MOST_PIXELS) {
        return Err(format!("an image of {rows}x{columns} pixels makes no sense"));
    }
    let narrow = |n: u64| usize::try_from(n).map_err(|_| format!("{} makes no sense", text()));
    Ok(Plane {
        rows: narrow(rows)?,
        columns: narrow(columns)?,
        start: narrow(start)?,
        down: narrow(strides[down])?,
        across: narrow(strides[across])?,
    })
}

impl Plane {
    /// The same plane of an array whose first dimension varies fastest: what was slow is fast.
    pub(super) fn positions(self) -> impl Iterator<Item = Option<usize>> {
        (0..self.rows).flat_map(move |y| {
            (0..self.columns).map(move |x| {
                let row = y.checked_mul(self.down)?;
                self.start.checked_add(row)?.checked_add(x.checked_mul(self.across)?)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(shape: &[u64], slice: Option<(u32, Option<u32>)>) -> Result<Vec<usize>, String> {
        let slice = slice.map(|(axis, index)| Slice { axis, index });
        Ok(plane(shape, slice, |a| a as usize)?.positions().map(Option::unwrap).collect())
    }

    #[test]
    fn planes_of_volumes() {
        assert_eq!(at(&[2, 3], None).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(at(&[2, 3, 1], None).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(at(&[2, 3, 2], Some((0, Some(1)))).unwrap(), [6, 7, 8, 9, 10, 11]);
        assert_eq!(at(&[2, 3, 2], Some((1, None))).unwrap(), [2, 3, 8, 9]);
        assert_eq!(at(&[2, 3, 2], Some((2, Some(0)))).unwrap(), [0, 2, 4, 6, 8, 10]);
        assert_eq!(at(&[1, 4], None).unwrap(), [0, 1, 2, 3], "one row");
    }

    #[test]
    fn what_is_no_plane_is_refused() {
        assert!(at(&[2, 3, 2], None).unwrap_err().contains("source.slice"));
        assert!(at(&[2, 3, 2], Some((0, Some(2)))).unwrap_err().contains("no plane 2"));
        assert!(at(&[2, 3, 2], Some((3, None))).unwrap_err().contains("axis 3"));
        for wrong in [&[][..], &[7], &[0, 4], &[u64::MAX, u64::MAX, 2], &[1 << 20, 1 << 20], &[2, 2, 2, 2]] {
            assert!(at(wrong, Some((0, None))).is_err(), "{wrong:?}");
        }
    }
}
