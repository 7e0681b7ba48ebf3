/* Grid sums of localized basis functions, in blocks of grid points.
 *
 * A "site" is one periodic image of an atom. In every block of GB points a site
 * touches, the values of its functions lie in rows of 4 * nv doubles, functions
 * that reach far first, so that a block at some distance holds only those.
 * Matrices are real and indexed [r][row][column], r being the image difference
 * modulo the k-point mesh. See fast_grid.py for the algebra. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GB 64
#define PAD 16
#define SUB 8

typedef double v4 __attribute__((vector_size(32), aligned(8)));

typedef struct {
  int l, first, npoints;
  double cutoff;
  const double *table; /* value and derivative at every knot */
} Radial;

typedef struct {
  int site, nv;
  size_t offset;
} Entry;

typedef struct {
  double h_cv[9], step;
  int nblocks, nsites, natoms, nr, ld;
  int *point_index;  /* nblocks * GB grid indices, -1 where there is none */
  double *point_pos; /* nblocks * GB * 3 */
  int *start;        /* nblocks + 1, into entries */
  Entry *entries;
  double *values;
  const int *site_atom, *site_r, *r_difference, *radial_start;
  const double *site_pos;
  Radial *radials;
} Grid;

static void radial_value(const Radial *f, double step, double r, double *value, double *slope) {
  int bin = (int)(r / step);
  if (bin > f->npoints - 2) bin = f->npoints - 2;
  double t = r / step - bin;
  const double *p = f->table + 2 * bin;
  double a = p[0], da = p[1] * step, b = p[2], db = p[3] * step;
  double c2 = 3 * (b - a) - 2 * da - db, c3 = 2 * (a - b) + da + db;
  *value = a + t * (da + t * (c2 + t * c3));
  *slope = (da + t * (2 * c2 + 3 * t * c3)) / step;
}

static void harmonics(int l, const double *d, double *y, double (*g)[3]) {
  const double c0 = 0.28209479177387814, c1 = 0.48860251190291992, c2 = 1.0925484305920792;
  const double c20 = 0.31539156525252005, c22 = 0.54627421529603959;
  double x = d[0], w = d[1], z = d[2];
  memset(g, 0, 5 * sizeof(*g));
  if (l == 0) {
    y[0] = c0;
  } else if (l == 1) {
    y[0] = c1 * w, y[1] = c1 * z, y[2] = c1 * x;
    g[0][1] = g[1][2] = g[2][0] = c1;
  } else {
    y[0] = c2 * x * w, y[1] = c2 * w * z, y[2] = c20 * (2 * z * z - x * x - w * w);
    y[3] = c2 * x * z, y[4] = c22 * (x * x - w * w);
    g[0][0] = c2 * w, g[0][1] = c2 * x;
    g[1][1] = c2 * z, g[1][2] = c2 * w;
    g[2][0] = -2 * c20 * x, g[2][1] = -2 * c20 * w, g[2][2] = 4 * c20 * z;
    g[3][0] = c2 * z, g[3][2] = c2 * x;
    g[4][0] = 2 * c22 * x, g[4][1] = -2 * c22 * w;
  }
}

static double distance(const double *point, const double *site, double *d) {
  for (int v = 0; v < 3; v++) d[v] = point[v] - site[v];
  return sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
}

/* Number of vector registers needed for a site whose nearest point is at r; 0 if out of reach. */
static int reach(const Grid *grid, int site, double r) {
  int atom = grid->site_atom[site], last = 0;
  for (int j = grid->radial_start[atom]; j < grid->radial_start[atom + 1]; j++) {
    const Radial *f = grid->radials + j;
    int end = f->first + 2 * f->l + 1;
    if (r < f->cutoff && end > last) last = end;
  }
  return (last + 3) / 4;
}

static void fill_values(Grid *grid, int block, const Entry *entry) {
  int atom = grid->site_atom[entry->site], width = 4 * entry->nv;
  for (int p = 0; p < GB; p++) {
    if (grid->point_index[block * GB + p] < 0) continue;
    double d[3], y[5], g[5][3], f, df;
    double r = distance(grid->point_pos + 3 * (block * GB + p), grid->site_pos + 3 * entry->site, d);
    double *row = grid->values + entry->offset + p * width;
    for (int j = grid->radial_start[atom]; j < grid->radial_start[atom + 1]; j++) {
      const Radial *radial = grid->radials + j;
      if (r >= radial->cutoff) continue;
      radial_value(radial, grid->step, r, &f, &df);
      harmonics(radial->l, d, y, g);
      for (int m = 0; m < 2 * radial->l + 1; m++) row[radial->first + m] = f * y[m];
    }
  }
}

Grid *grid_new(const double *h_cv, const int *n_c, const int *beg_c, int nsites, const int *site_atom, const int *site_r,
               const double *site_pos, int natoms, const int *radial_start, int nradials, const int *radial_l,
               const int *radial_first, const int *radial_npoints, const double *radial_cutoff, const double **tables,
               double step, int nr, const int *r_difference) {
  Grid *grid = calloc(1, sizeof(Grid));
  memcpy(grid->h_cv, h_cv, sizeof(grid->h_cv));
  grid->step = step, grid->nsites = nsites, grid->natoms = natoms, grid->nr = nr, grid->ld = natoms * PAD;
  grid->site_atom = site_atom, grid->site_r = site_r, grid->site_pos = site_pos;
  grid->radial_start = radial_start, grid->r_difference = r_difference;
  grid->radials = malloc(nradials * sizeof(Radial));
  for (int j = 0; j < nradials; j++)
    grid->radials[j] = (Radial){radial_l[j], radial_first[j], radial_npoints[j], radial_cutoff[j], tables[j]};
  int nb[3];
  for (int c = 0; c < 3; c++) nb[c] = (n_c[c] + 3) / 4;
  grid->nblocks = nb[0] * nb[1] * nb[2];
  grid->point_index = malloc(grid->nblocks * GB * sizeof(int));
  grid->point_pos = malloc(grid->nblocks * GB * 3 * sizeof(double));
  grid->start = calloc(grid->nblocks + 1, sizeof(int));
  grid->entries = malloc((size_t)grid->nblocks * nsites * sizeof(Entry));
  size_t total = 0;
  int nentries = 0;
  for (int block = 0; block < grid->nblocks; block++) {
    int origin[3] = {block / (nb[1] * nb[2]) * 4, block / nb[2] % nb[1] * 4, block % nb[2] * 4};
    for (int p = 0; p < GB; p++) {
      int i[3] = {origin[0] + p / 16, origin[1] + p / 4 % 4, origin[2] + p % 4};
      int inside = i[0] < n_c[0] && i[1] < n_c[1] && i[2] < n_c[2];
      grid->point_index[block * GB + p] = inside ? (i[0] * n_c[1] + i[1]) * n_c[2] + i[2] : -1;
      for (int v = 0; v < 3; v++) {
        double *x = grid->point_pos + 3 * (block * GB + p) + v;
        *x = 0.0;
        for (int c = 0; c < 3; c++) *x += (i[c] + beg_c[c]) * h_cv[3 * c + v];
      }
    }
    for (int site = 0; site < nsites; site++) {
      double nearest = 1e9, d[3];
      for (int p = 0; p < GB; p++) {
        if (grid->point_index[block * GB + p] < 0) continue;
        double r = distance(grid->point_pos + 3 * (block * GB + p), site_pos + 3 * site, d);
        if (r < nearest) nearest = r;
      }
      int nv = reach(grid, site, nearest);
      if (nv == 0) continue;
      grid->entries[nentries++] = (Entry){site, nv, total};
      total += (size_t)GB * 4 * nv;
    }
    grid->start[block + 1] = nentries;
  }
  grid->values = calloc(total, sizeof(double));
  for (int block = 0; block < grid->nblocks; block++)
    for (int e = grid->start[block]; e < grid->start[block + 1]; e++) fill_values(grid, block, grid->entries + e);
  return grid;
}

void grid_free(Grid *grid) {
  free(grid->radials);
  free(grid->point_index);
  free(grid->point_pos);
  free(grid->start);
  free(grid->entries);
  free(grid->values);
  free(grid);
}

/* work[p][m1] += factor * sum over m2 of other[p][m2] * matrix[m2][m1], for SUB points. */
#define ROWS(NV)                                                                                        \
  static inline void rows##NV(double *work, const double *other, int width2, const double *matrix,      \
                              int ld, double factor) {                                                  \
    v4 sum[SUB][NV];                                                                                    \
    memset(sum, 0, sizeof(sum));                                                                        \
    for (int m2 = 0; m2 < width2; m2++)                                                                 \
      for (int i = 0; i < NV; i++) {                                                                    \
        v4 row = *(const v4 *)(matrix + (size_t)m2 * ld + 4 * i);                                       \
        for (int p = 0; p < SUB; p++) sum[p][i] += row * other[p * width2 + m2];                        \
      }                                                                                                 \
    for (int p = 0; p < SUB; p++)                                                                       \
      for (int i = 0; i < NV; i++) *(v4 *)(work + p * 4 * NV + 4 * i) += factor * sum[p][i];            \
  }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)

static void add_rows(double *work, int nv, const double *other, int width2, const double *matrix, int ld,
                     double factor) {
  for (int p = 0; p < GB; p += SUB) {
    double *w = work + p * 4 * nv;
    const double *o = other + p * width2;
    if (nv == 1) rows1(w, o, width2, matrix, ld, factor);
    if (nv == 2) rows2(w, o, width2, matrix, ld, factor);
    if (nv == 3) rows3(w, o, width2, matrix, ld, factor);
    if (nv == 4) rows4(w, o, width2, matrix, ld, factor);
  }
}

static size_t tile(const Grid *grid, int r, int row_atom, int column_atom) {
  return ((size_t)r * grid->ld + row_atom * PAD) * grid->ld + column_atom * PAD;
}

static int difference(const Grid *grid, int from, int to) {
  return grid->r_difference[grid->site_r[to] * grid->nr + grid->site_r[from]];
}

void grid_density(const Grid *grid, const double *matrix, double *density) {
  double work[GB * PAD];
  for (int block = 0; block < grid->nblocks; block++)
    for (int e1 = grid->start[block]; e1 < grid->start[block + 1]; e1++) {
      const Entry *one = grid->entries + e1;
      int width = 4 * one->nv;
      memset(work, 0, sizeof(work));
      for (int e2 = e1; e2 < grid->start[block + 1]; e2++) {
        const Entry *two = grid->entries + e2;
        size_t at = tile(grid, difference(grid, one->site, two->site), grid->site_atom[two->site],
                         grid->site_atom[one->site]);
        add_rows(work, one->nv, grid->values + two->offset, 4 * two->nv, matrix + at, grid->ld, e2 > e1 ? 2.0 : 1.0);
      }
      for (int p = 0; p < GB; p++) {
        int index = grid->point_index[block * GB + p];
        if (index < 0) continue;
        double sum = 0.0;
        for (int m = 0; m < width; m++) sum += work[p * width + m] * grid->values[one->offset + p * width + m];
        density[index] += sum;
      }
    }
}

/* tile[m1][m2] += sum over p of one[p][m1] * two[p][m2], four rows of m1 at a time. */
#define TILE(NV)                                                                                        \
  static inline void tile##NV(double *out, int ld, const double *one, int width1, const double *two) {  \
    for (int m1 = 0; m1 < width1; m1 += 4) {                                                            \
      v4 sum[4][NV];                                                                                    \
      memset(sum, 0, sizeof(sum));                                                                      \
      for (int p = 0; p < GB; p++)                                                                      \
        for (int i = 0; i < NV; i++) {                                                                  \
          v4 row = *(const v4 *)(two + p * 4 * NV + 4 * i);                                             \
          for (int m = 0; m < 4; m++) sum[m][i] += row * one[p * width1 + m1 + m];                      \
        }                                                                                               \
      for (int m = 0; m < 4; m++)                                                                       \
        for (int i = 0; i < NV; i++) *(v4 *)(out + (size_t)(m1 + m) * ld + 4 * i) += sum[m][i];         \
    }                                                                                                   \
  }
TILE(1)
TILE(2)
TILE(3)
TILE(4)

void grid_potential(const Grid *grid, const double *potential, double volume, double *matrix) {
  double scaled[GB * PAD];
  for (int block = 0; block < grid->nblocks; block++)
    for (int e1 = grid->start[block]; e1 < grid->start[block + 1]; e1++) {
      const Entry *one = grid->entries + e1;
      int width = 4 * one->nv;
      for (int p = 0; p < GB; p++) {
        int index = grid->point_index[block * GB + p];
        double v = index < 0 ? 0.0 : potential[index] * volume;
        for (int m = 0; m < width; m++) scaled[p * width + m] = v * grid->values[one->offset + p * width + m];
      }
      for (int e2 = e1; e2 < grid->start[block + 1]; e2++) {
        const Entry *two = grid->entries + e2;
        double *out = matrix + tile(grid, difference(grid, one->site, two->site), grid->site_atom[one->site],
                                    grid->site_atom[two->site]);
        const double *values = grid->values + two->offset;
        if (e2 == e1)
          for (int i = 0; i < GB * width; i++) scaled[i] *= 0.5;
        if (two->nv == 1) tile1(out, grid->ld, scaled, width, values);
        if (two->nv == 2) tile2(out, grid->ld, scaled, width, values);
        if (two->nv == 3) tile3(out, grid->ld, scaled, width, values);
        if (two->nv == 4) tile4(out, grid->ld, scaled, width, values);
        if (e2 == e1)
          for (int i = 0; i < GB * width; i++) scaled[i] *= 2.0;
      }
    }
}

/* Gradient term of one point: sum over the functions of one site of work[m] * dPhi_m/dr. */
static void gradient(const Grid *grid, const Entry *entry, const double *point, const double *work, double *out) {
  int atom = grid->site_atom[entry->site];
  double d[3], y[5], g[5][3], f, df;
  double r = distance(point, grid->site_pos + 3 * entry->site, d);
  for (int j = grid->radial_start[atom]; j < grid->radial_start[atom + 1]; j++) {
    const Radial *radial = grid->radials + j;
    if (r >= radial->cutoff) continue;
    radial_value(radial, grid->step, r, &f, &df);
    harmonics(radial->l, d, y, g);
    double slope = r > 1e-15 ? df / r : 0.0;
    for (int m = 0; m < 2 * radial->l + 1; m++)
      for (int v = 0; v < 3; v++) out[v] += work[radial->first + m] * (f * g[m][v] + slope * d[v] * y[m]);
  }
}

void grid_forces(const Grid *grid, const double *potential, double volume, const double *matrix, double *forces) {
  double work[GB * PAD];
  for (int block = 0; block < grid->nblocks; block++)
    for (int e1 = grid->start[block]; e1 < grid->start[block + 1]; e1++) {
      const Entry *one = grid->entries + e1;
      int atom = grid->site_atom[one->site];
      memset(work, 0, sizeof(work));
      for (int e2 = grid->start[block]; e2 < grid->start[block + 1]; e2++) {
        const Entry *two = grid->entries + e2;
        size_t at = tile(grid, difference(grid, one->site, two->site), grid->site_atom[two->site], atom);
        add_rows(work, one->nv, grid->values + two->offset, 4 * two->nv, matrix + at, grid->ld, 1.0);
      }
      for (int p = 0; p < GB; p++) {
        int index = grid->point_index[block * GB + p];
        if (index < 0) continue;
        double sum[3] = {0.0, 0.0, 0.0};
        gradient(grid, one, grid->point_pos + 3 * (block * GB + p), work + p * 4 * one->nv, sum);
        for (int v = 0; v < 3; v++) forces[3 * atom + v] += 2.0 * volume * potential[index] * sum[v];
      }
    }
}
