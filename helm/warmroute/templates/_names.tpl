{{/* Names, labels and images. */}}

{{- define "warmroute.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods of one component: dict "root" $ "component" NAME. They never change within a release. */}}
{{- define "warmroute.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* All labels of an object: dict "root" $ "component" NAME. */}}
{{- define "warmroute.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: warmroute
{{ include "warmroute.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Labels of pods: those that select them, and nothing that changes with the chart's version, since engines would be
restarted, and their caches lost, by every upgrade. dict "root" $ "component" NAME.
*/}}
{{- define "warmroute.podLabels" -}}
{{ include "warmroute.selector" . }}
app.kubernetes.io/part-of: warmroute
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "warmroute.serviceAccountName" -}}
{{- default (include "warmroute.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* An image's name: dict "image" MAP "tag" DEFAULT "what" KEY. */}}
{{- define "warmroute.imageName" -}}
{{- $tag := default .tag .image.tag -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- if or (not $tag) (has $tag (list "latest" "nightly" "main" "stable")) -}}
{{- fail (printf "%s.tag is %q, which moves: name a version, or a digest" .what $tag) -}}
{{- end -}}
{{- printf "%s:%s" .image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* The product's own image. */}}
{{- define "warmroute.image" -}}
{{- include "warmroute.imageName" (dict "image" .Values.image "tag" .Chart.AppVersion "what" "image") -}}
{{- end -}}

{{- define "warmroute.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* HOST:PORT to listen on: dict "root" $ "port" PORT. */}}
{{- define "warmroute.listen" -}}
{{- printf "%s:%d" (ternary "[::]" "0.0.0.0" (eq .root.Values.ipFamily "IPv6")) (int .port) -}}
{{- end -}}

{{/* Spread over zones and nodes, where the values say nothing: dict "given" LIST "selector" TEXT. */}}
{{- define "warmroute.spread" -}}
{{- $labels := fromYaml .selector -}}
{{- $constraints := .given -}}
{{- if not $constraints -}}
{{- $constraints = list -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" -}}
{{- $constraints = append $constraints (dict "maxSkew" 1 "topologyKey" . "whenUnsatisfiable" "ScheduleAnyway") -}}
{{- end -}}
{{- end -}}
{{- $complete := list -}}
{{- range $constraints -}}
{{- $complete = append $complete (merge (dict) . (dict "labelSelector" (dict "matchLabels" $labels))) -}}
{{- end -}}
{{- toYaml $complete -}}
{{- end -}}

{{/* A lifecycle hook that waits: from 1.30 on the kubelet does it itself. dict "root" $ "seconds" N */}}
{{- define "warmroute.sleep" -}}
{{- if semverCompare ">=1.30.0-0" .root.Capabilities.KubeVersion.Version -}}
sleep:
  seconds: {{ int .seconds }}
{{- else -}}
exec:
  command: [sleep, {{ int .seconds | quote }}]
{{- end -}}
{{- end -}}
