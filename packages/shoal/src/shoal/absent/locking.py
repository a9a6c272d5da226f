from shoal.elsewhere import refuse

refuse(__name__)
