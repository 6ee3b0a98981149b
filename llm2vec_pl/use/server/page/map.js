// Embeddings -> places on a plane: the first two principal components.

const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};

export { dot };

function centred(rows) {
  const mean = new Float64Array(rows[0].length);
  for (const row of rows) for (let i = 0; i < row.length; i++) mean[i] += row[i] / rows.length;
  return rows.map((row) => Float64Array.from(row, (value, i) => value - mean[i]));
}

// The largest eigenvalue of a symmetric matrix and its vector, by power iteration.
function largest(matrix) {
  let vector = Float64Array.from(matrix, (_, i) => Math.sin(i + 1));
  let value = 0;
  for (let round = 0; round < 200; round++) {
    const next = Float64Array.from(matrix, (row) => dot(row, vector));
    const length = Math.sqrt(dot(next, next));
    if (length < 1e-12) return { value: 0, vector: new Float64Array(matrix.length) };
    const before = value;
    value = length;
    vector = next.map((v) => v / length);
    if (Math.abs(value - before) < 1e-9 * value) break;
  }
  return { value, vector };
}

// rows: n arrays of D numbers. Returns n points [x, y] and the share of the variance that each of
// the two axes shows. The first row lies on the right and the upper side, so that the map does not
// flip when little changes.
export function principalPlane(rows) {
  const c = centred(rows);
  let gram = c.map((a) => Float64Array.from(c, (b) => dot(a, b)));
  const total = gram.reduce((sum, row, i) => sum + row[i], 0) || 1;
  const axes = [];
  for (let axis = 0; axis < 2; axis++) {
    const { value, vector } = largest(gram);
    const sign = vector[0] < 0 ? -1 : 1;
    axes.push({ value, along: vector.map((v) => sign * v * Math.sqrt(value)) });
    gram = gram.map((row, i) => row.map((g, j) => g - value * vector[i] * vector[j]));
  }
  return {
    points: rows.map((_, i) => [axes[0].along[i], axes[1].along[i]]),
    shares: axes.map((axis) => axis.value / total),
  };
}
