"""Where generations for a calibration come from, and how its result is shown. The statistics: `monitor.calibration`."""
