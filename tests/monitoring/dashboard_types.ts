// The dashboard against Grafana's own types (npm @grafana/schema): an unknown or missing field, a wrong type or a word
// that Grafana does not know fails to compile. `DASHBOARD` stands for the JSON, written here as a literal by the test.
// Not covered, since the package has no types of it: a Prometheus query's fields, written down below as Grafana 10.4 to 13
// save them.
import type { GraphFieldConfig, TableFieldOptions } from '@grafana/schema';
import type { AnnotationQuery, Dashboard, DataSourceRef, FieldConfig, FieldConfigSource, Panel, RowPanel, VariableModel } from './node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type { Options as StatOptions } from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type { Options as TableOptions } from './node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';
import type { Options as GraphOptions } from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import type { Options as TimelineOptions, FieldConfig as TimelineField } from './node_modules/@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/types.gen';

// JSON has the values of string enums, not their members.
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

interface PrometheusQuery {
  datasource: DataSourceRef; editorMode: 'code'; expr: string; format: 'table' | 'time_series'; instant: boolean;
  legendFormat: string; range: boolean; refId: string;
}
interface PrometheusAnnotation extends AnnotationQuery { expr: string; titleFormat: string; textFormat: string; }
interface Organize { id: 'organize'; options: { excludeByName: Record<string, boolean>; indexByName: Record<string, number>; renameByName: Record<string, string> } }
interface Merge { id: 'merge'; options: Record<string, never> }

type Drawn<Kind extends string, Options, Custom> = Omit<Plain<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets' | 'transformations'> & {
  type: Kind; title: string; description: string; options: Plain<Options>; targets: PrometheusQuery[]; transformations?: (Merge | Organize)[];
  fieldConfig: Omit<Plain<FieldConfigSource>, 'defaults'> & { defaults: Omit<Plain<FieldConfig>, 'custom'> & { custom?: Custom } };
};
type AnyPanel =
  | Drawn<'stat', StatOptions, never>
  | Drawn<'timeseries', GraphOptions, Plain<GraphFieldConfig>>
  | Drawn<'state-timeline', TimelineOptions, Plain<TimelineField>>
  | Drawn<'table', TableOptions, Plain<TableFieldOptions>>;
type AnyRow = Omit<Plain<RowPanel>, 'panels'> & { panels: AnyPanel[] };

export const dashboard: Omit<Plain<Dashboard>, 'panels' | 'templating' | 'annotations'> & {
  panels: (AnyPanel | AnyRow)[]; templating: { list: Plain<VariableModel>[] }; annotations: { list: PrometheusAnnotation[] };
} = DASHBOARD;
