//! The table of cases as a Parquet file, for pandas, polars and R. The same table gives the same bytes.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use morph_scores::cases::{Case, Cases};
use parquet::{
    arrow::ArrowWriter,
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
};

/// The file: columns as those of the CSV; what a case does not have is null.
///
/// # Errors
/// When a table is too large for Arrow.
pub fn write(cases: &Cases) -> Result<Vec<u8>, ParquetError> {
    let rows = cases.cases();
    let text = |of: fn(&Case) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(of))) as ArrayRef;
    let maybe = |of: fn(&Case) -> Option<&str>| Arc::new(rows.iter().map(of).collect::<StringArray>()) as ArrayRef;
    let mut columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("dataset", text(|c| &c.dataset), false),
        ("set", text(|c| &c.set), false),
        ("role", text(|c| c.role.name()), false),
        ("id", text(|c| &c.id), false),
        ("patient", maybe(|c| c.patient.as_deref()), true),
        ("label", text(|c| &c.label), false),
        ("view", maybe(|c| c.view.as_deref()), true),
        ("sex", maybe(|c| c.sex.as_deref()), true),
        ("age", Arc::new(rows.iter().map(|c| c.age).collect::<UInt32Array>()), true),
        ("source", maybe(|c| c.source.as_deref()), true),
    ];
    for (at, name) in cases.names().iter().enumerate() {
        columns.push((name, Arc::new(rows.iter().map(|c| c.scores[at]).collect::<Float64Array>()), true));
    }
    let fields = columns.iter().map(|(name, array, nullable)| {
        let kind: &DataType = array.data_type();
        Field::new(*name, kind.clone(), *nullable)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<Field>>()));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.into_iter().map(|(_, array, _)| array).collect())?;
    // Its version of the crate is no part of a result.
    let properties = WriterProperties::builder()
        .set_created_by("morph".to_owned())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
    writer.write(&batch)?;
    writer.into_inner()
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, cast::AsArray, types::Float64Type, types::UInt32Type};
    use morph_scores::cases::Role;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut cases = Cases::new(["l1", "pointing"]).unwrap();
        let case = |i: u32, pointing| Case {
            dataset: "rsna".into(),
            set: "healthy".into(),
            role: Role::Healthy,
            id: format!("case-{i}"),
            patient: (i == 1).then(|| "p".into()),
            label: "Normal, \"quoted\"".into(),
            view: Some("AP".into()),
            sex: None,
            age: (i > 0).then_some(40 + i),
            source: None,
            scores: vec![Some(f64::from(i) / 3.0), pointing],
        };
        cases.push(case(0, None)).unwrap();
        cases.push(case(1, Some(1.0))).unwrap();
        let bytes = write(&cases).unwrap();
        assert_eq!(bytes, write(&cases).unwrap(), "the same table, the same bytes");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap().build().unwrap();
        let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        assert_eq!((batches.len(), batches[0].num_rows(), batches[0].num_columns()), (1, 2, 12));
        let column = |name: &str| Arc::clone(batches[0].column_by_name(name).unwrap());
        assert_eq!(column("id").as_string::<i32>().value(1), "case-1");
        assert_eq!(column("label").as_string::<i32>().value(0), "Normal, \"quoted\"");
        assert!(column("patient").is_null(0) && column("patient").is_valid(1));
        assert_eq!(column("age").as_primitive::<UInt32Type>().value(1), 41);
        assert_eq!(column("l1").as_primitive::<Float64Type>().value(1), 1.0 / 3.0);
        assert!(column("pointing").is_null(0));
        assert_eq!(column("pointing").as_primitive::<Float64Type>().value(1), 1.0);
    }
}
